#!/bin/bash
# test_gpu.sh: what needs a GPU: its tests, compute-sanitizer on small sizes, the benchmark tables.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'HELP'
Usage: tools/test_gpu.sh [--tests] [--answers] [--sanitize] [--bench] [CMAKE_FLAG...]

Builds with CUDA (preset cuda) and runs what is named; without a name, all four:
  --tests      ctest -L gpu
  --answers    TinyVLM's evaluation set through vkv run, on the CPU and on the GPU
  --sanitize   compute-sanitizer: memcheck and racecheck, on the tests' small sizes
  --bench      vkv bench attend, decode and encode: against the memory's speed, measured in the same
               run

Other flags go to cmake: -DCMAKE_PREFIX_PATH=DIR, -DCMAKE_CUDA_ARCHITECTURES=90.
HELP
}

# Programs, and those of their cases that are small enough to run a hundred times slower.
readonly SMALL_CASES=(
  'gpu_attend_test *shared_headers*:*dead_tokens*:*no_token*:*many_items*'
  'gpu_encode_test *mapped*:*squared*:*small_bench*'
  'gpu_merge_test *'
  'gpu_prefill_test *dead_tokens*:*variants*'
  'gpu_cache_test *not_finite*:*cannot_be_opened*'
  'mma_packing_test *random*'
)

# Kernels of cuDNN are left out: racecheck does not know their barriers and finds races there.
sanitize() {
  local tool program cases one flags
  for tool in memcheck racecheck; do
    for one in "${SMALL_CASES[@]}"; do
      read -r program cases <<< "$one"
      echo "$tool $program"
      # memcheck would count the allocations that a test has refused.
      flags=()
      [ "$tool" = racecheck ] || flags=(--report-api-errors no)
      compute-sanitizer --error-exitcode 1 --tool "$tool" --kernel-regex-exclude kns=cudnn \
        "${flags[@]}" "build/cuda/tests/$program" --gtest_filter="$cases" | tail -1
    done
  done
}

# Right answers on both, and how many questions get another answer: bf16 may turn a close one.
answers() {
  local vkv=build/cuda/tools/vkv/vkv device preset
  mkdir -p build/evaluation
  for preset in exact balanced visual1; do
    for device in cpu cuda; do
      "$vkv" run --model tools/tinyvlm/model --jobs tools/tinyvlm/eval/jobs.jsonl \
        --preset "$preset" --recent-tokens 32 --device "$device" --restart --json --quiet \
        --out "build/evaluation/$preset-$device.jsonl" > "build/evaluation/$preset-$device.json"
      printf '%s on %s: %s right; ' "$preset" "$device" \
        "$(jq -r '"\(.accuracy.correct) of \(.accuracy.total)"' \
          "build/evaluation/$preset-$device.json")"
    done
    echo "$(diff <(texts "$preset-cpu") <(texts "$preset-cuda") | grep -c '^<') differ"
  done
}

texts() { jq -c '[.id, .question, .text]' "build/evaluation/$1.jsonl" | sort; }

bench() {
  local vkv=build/cuda/tools/vkv/vkv batch preset share
  for batch in 1 8; do
    "$vkv" bench attend --batch "$batch"
    "$vkv" bench attend --q-heads 32 --kv-heads 32 --tokens 32768 --batch "$batch"
  done
  "$vkv" bench attend --q-len 4
  "$vkv" bench attend --q-len 16
  "$vkv" bench attend --q-len 2048 --tokens 32768 --codecs i4,bf16
  "$vkv" bench attend --tier dram --codecs bf16,i4,i1
  for preset in exact balanced; do "$vkv" bench decode --preset "$preset" --steps 200; done
  for preset in balanced visual2 visual1 extreme safe; do
    for share in 0 auto; do
      "$vkv" bench decode --preset "$preset" --steps 40 --tokens 131072 --hbm-budget 1G \
        --host-share "$share"
    done
  done
  "$vkv" bench encode --device cuda --blocks 1024
}

main() {
  local parts=() flags=() part
  for part in "$@"; do
    case $part in
      --help | -h) usage && return ;;
      --tests | --answers | --sanitize | --bench) parts+=("${part#--}") ;;
      *) flags+=("$part") ;;
    esac
  done
  [ ${#parts[@]} -gt 0 ] || parts=(tests answers sanitize bench)

  cmake --preset cuda "${flags[@]}" > /dev/null
  cmake --build --preset cuda --parallel "$(nproc)"
  for part in "${parts[@]}"; do
    case $part in
      tests) ctest --test-dir build/cuda -L gpu --output-on-failure ;;
      *) "$part" ;;
    esac
  done
}

main "$@"

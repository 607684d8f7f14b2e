#!/bin/bash
# evaluate.sh: what each precision preset costs in answers and saves in bytes.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VKV=build/cpu/tools/vkv/vkv
readonly PRESETS=(exact safe balanced visual2 visual1 extreme onebit)

usage() {
  cat <<'HELP'
Usage: tools/evaluate.sh [PRESET...]

Runs the evaluation set of TinyVLM (412 questions about pictures and videos) through `vkv run` with
each preset (all of them unless named), twice: with most encoded blocks on NVMe, and with
everything in DRAM. Prints a table, and fails if one answer differs between the two. Answers and
summaries stay in build/evaluation. Takes a few minutes a preset on 2 cores.

  accuracy     right answers, exact match
  bits         stored bits a value of visual tokens, all metadata counted
  saved        bytes of visual KV against 16 bit
  on NVMe      visual values that lay on NVMe when the answer was complete
  read ahead   of the extents needed from NVMe: read issued before / finished before
HELP
}

# answer PRESET NAME FLAG...: one run over the evaluation set, into build/evaluation/NAME.*
answer() {
  local preset=$1 name=$2
  shift 2
  "$VKV" run --model tools/tinyvlm/model --jobs tools/tinyvlm/eval/jobs.jsonl --preset "$preset" \
    --recent-tokens 32 --out "build/evaluation/$name.jsonl" --restart --json --quiet "$@" \
    > "build/evaluation/$name.json"
}

# texts NAME: the answers alone, in a fixed order.
texts() { jq -c '[.id, .question, .text]' "build/evaluation/$1.jsonl" | sort; }

main() {
  case ${1-} in --help | -h) usage && return ;; esac
  local presets=("$@") preset row differing=0
  [ $# -gt 0 ] || presets=("${PRESETS[@]}")
  tools/build.sh cpu vkv_program >&2
  mkdir -p build/evaluation

  printf '%-9s %9s %6s %7s %8s %16s  %s\n' preset accuracy bits saved 'on NVMe' 'read ahead' \
    'answers without NVMe'
  for preset in "${presets[@]}"; do
    answer "$preset" "$preset" --dram-budget 32M --dram-blocks 64K --nvme-budget 1G
    answer "$preset" "$preset-dram" --dram-budget 512M
    row=$(jq -r '[.accuracy.percent, .kv.visual.bits_per_value, .visual_kv_reduction_percent,
                  .visual_nvme_percent, 100 * .io.prefetch_hits / .io.extents_needed,
                  100 * .io.prefetch_ready / .io.extents_needed] | @tsv' \
      "build/evaluation/$preset.json")
    # shellcheck disable=SC2086  # the row's numbers are arguments of their own
    printf "%-9s %8.2f%% %6.2f %6.1f%% %7.1f%% %7.1f%%/%6.1f%%" "$preset" $row
    if diff -q <(texts "$preset") <(texts "$preset-dram") > /dev/null; then
      echo '  the same'
    else
      echo '  DIFFERENT'
      differing=1
    fi
  done
  return $differing
}

main "$@"

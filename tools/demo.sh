#!/bin/bash
# demo.sh: vkv at work: a small real model answers questions about a picture and a video.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VKV=build/cpu/tools/vkv/vkv
readonly MODEL=tools/tinyvlm/model
readonly SAMPLES=tools/tinyvlm/samples

usage() {
  cat <<'HELP'
Usage: tools/demo.sh [--all] [--help]

Makes a fresh Debian 12 ready (tools/setup.sh), builds the vkv program and asks TinyVLM, the small
model that ships, about a picture and a video. Visual tokens are kept at 2 to 4 bits, and of the
video's most are on disk. Each answer is compared with the right one; ends with 0 if all are right.

  --all   asks about every sample in tools/tinyvlm/samples, not one of each kind

The first run takes about 12 minutes on 2 idle cores, most of it for oneDNN; a second one seconds.
HELP
}

samples() { jq -r "$@" "$SAMPLES/samples.json"; }

# shellcheck disable=SC2016  # $id is jq's
# ask ID FLAG...: puts all questions about one sample to the model; shows the command, the answers
# and what the cache did; counts into `asked` and `right`.
ask() {
  local id=$1 command prompt given
  shift
  local prompts expected answers media
  mapfile -t media < <(samples --arg id "$id" '.[] | select(.id == $id) |
    (.images // [] | .[] | "--image", .), (.video // empty | "--video", .)' |
    sed "/^--/!s#^#$SAMPLES/#")
  mapfile -t prompts < <(samples --arg id "$id" '.[] | select(.id == $id).questions[].prompt')
  mapfile -t expected < <(samples --arg id "$id" '.[] | select(.id == $id).questions[].answer')
  command=("$VKV" run --model "$MODEL" "${media[@]}" "$@")
  for prompt in "${prompts[@]}"; do command+=(--prompt "$prompt"); done

  printf '\n$'
  local word
  for word in "${command[@]}"; do
    case $word in *' '*) word="\"$word\"" ;; esac
    printf ' %s' "$word"
  done
  printf '\n\n'
  answers=$(mktemp)
  # With several questions each is repeated as "> question" above its answer.
  if ! "${command[@]}" > "$answers"; then
    rm -f "$answers"
    echo "demo: the command above failed" >&2
    exit 1
  fi
  mapfile -t given < <(grep -v -e '^> ' -e '^$' "$answers")
  rm -f "$answers"

  echo
  local i mark
  for i in "${!prompts[@]}"; do
    asked=$((asked + 1))
    if [ "${given[i]-}" = "${expected[i]}" ]; then
      right=$((right + 1))
      mark='right'
    else
      mark="WRONG, it is: ${expected[i]}"
    fi
    printf '  %-48s %-18s %s\n' "${prompts[i]}" "${given[i]-}" "$mark"
  done
}

main() {
  local all=0
  case ${1-} in
    '') ;;
    --all) all=1 ;;
    --help | -h) usage && return ;;
    *) echo "demo.sh: unknown option '$1'; see tools/demo.sh --help" >&2 && return 2 ;;
  esac

  echo "1. Setup and build"
  tools/build.sh cpu vkv_program

  local pictures videos id asked=0 right=0
  mapfile -t pictures < <(samples '.[] | select(.images).id')
  mapfile -t videos < <(samples '.[] | select(.video).id')
  if [ "$all" = 0 ]; then
    pictures=("${pictures[0]}")
    videos=("${videos[-1]}")
  fi

  echo
  echo "2. Picture: all of the KV cache in memory, encoded at 4 bits (preset balanced)"
  for id in "${pictures[@]}"; do ask "$id" --preset balanced; done

  echo
  echo "3. Video: visual tokens at 4 and 2 bits (preset visual2), most of them on disk"
  for id in "${videos[@]}"; do
    ask "$id" --preset visual2 --dram-budget 64M --dram-blocks 1M --nvme-budget 256M \
      --store build/demo.store
  done

  echo
  echo "$right of $asked answers are right."
  [ "$right" = "$asked" ]
}

main "$@"

#!/bin/bash
# test.sh: everything that must hold before a change lands: build, then all tests.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'HELP'
Usage: tools/test.sh [--cpu | --cuda | --asan | --tsan]... [-- CTEST-ARGUMENTS...]

Makes the machine ready (tools/setup.sh), builds and runs all tests; ends with ctest's summary.
Tests that need what this machine lacks (a GPU, say) show as skipped.

  --cpu    optimised build without CUDA (what runs if nothing is named, and in CI)
  --cuda   optimised build with the CUDA toolkit
  --asan   address and undefined-behaviour sanitizers
  --tsan   thread sanitizer; what it must not report is in tests/tsan.supp, with reasons
  --       the rest goes to ctest: tools/test.sh --asan -- -R cache -L disk

Several of them run one after the other, each in its own folder build/NAME; the first failure stops.
HELP
}

main() {
  local presets=() preset
  while [ $# -gt 0 ]; do
    case $1 in
      --cpu | --cuda | --asan | --tsan) presets+=("${1#--}") ;;
      --help | -h) usage && return ;;
      --) shift && break ;;
      *) echo "test.sh: unknown option '$1'; see tools/test.sh --help" >&2 && return 2 ;;
    esac
    shift
  done
  [ "${#presets[@]}" -gt 0 ] || presets=(cpu)

  for preset in "${presets[@]}"; do
    echo "--- preset $preset"
    tools/build.sh "$preset"
    ctest --preset "$preset" --parallel "$(nproc)" "$@"
  done
}

main "$@"

#!/bin/bash
# build.sh: setup, configure and build in one go, with the time of each phase.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'HELP'
Usage: tools/build.sh [PRESET [TARGET...]]

Runs tools/setup.sh, configures PRESET (cpu unless named; cuda, asan, tsan) and builds the targets
(all unless named) in build/PRESET. tools/test.sh and tools/demo.sh share that folder, so nothing is
built twice. Uses ccache if it is installed.
HELP
}

# phase NAME COMMAND...: runs the command and prints how long it took.
phase() {
  local name=$1 start=$SECONDS
  shift
  "$@"
  printf '%-10s %4d s\n' "$name" $((SECONDS - start))
}

# CMake's words matter only when something is wrong.
configure() {
  local log=build/$1-configure.log launcher=()
  command -v ccache > /dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  mkdir -p build
  cmake --preset "$1" "${launcher[@]}" > "$log" 2>&1 || {
    cat "$log" >&2
    exit 1
  }
}

# What ccache wants to be told before it keeps objects that were made with a precompiled header.
export CCACHE_SLOPPINESS=pch_defines,time_macros

build() {
  local preset=$1 quiet=() targets=()
  shift
  [ $# = 0 ] || targets=(--target "$@")
  [ -t 1 ] || quiet=(-- --quiet)  # on a terminal Ninja counts on one line
  cmake --build --preset "$preset" "${targets[@]}" "${quiet[@]}"
}

main() {
  local preset=${1:-cpu}
  case $preset in
    --help | -h) usage && return ;;
    -*) echo "build.sh: unknown option '$preset'; see tools/build.sh --help" >&2 && return 2 ;;
  esac
  shift || true
  phase setup tools/setup.sh
  phase configure configure "$preset"
  phase build build "$preset" "$@"
}

main "$@"

#!/bin/bash
# fetch_cudnn_frontend.sh: fetches the headers of cuDNN's frontend, once a machine.
# SPDX-License-Identifier: Apache-2.0
#
# kernels/cudnn_attention.cpp is compiled with them; cuDNN's own headers come with CUDA or with a
# package libcudnn9-dev. The wheel holds a Python module too, which is left in it.
set -euo pipefail

readonly PACKAGE='nvidia-cudnn-frontend' VERSION='1.32.0' PYTHON='311'
readonly WHEEL_TAG='manylinux_2_27_x86_64.manylinux_2_28_x86_64'
readonly WHEEL="nvidia_cudnn_frontend-$VERSION-cp$PYTHON-cp$PYTHON-$WHEEL_TAG.whl"
readonly WHEEL_SHA256='c6006556017a4d1c914c52a556c71b1267f2d6a0500f742e7b4edef539878df0'

usage() {
  cat <<HELP
Usage: tools/fetch_cudnn_frontend.sh [--wheel FILE | --where | --help]

Fetches the headers of cuDNN's frontend $VERSION (3 MB, MIT and Apache-2.0) into the cache
(VKV_CACHE, else XDG_CACHE_HOME/vkv, else ~/.cache/vkv), where CMake finds them, and prints the
folder. If they are there, only prints. 'tools/setup.sh --cudnn' calls this.

  --wheel FILE  take them from this copy of $PACKAGE's wheel for Linux on
                x86-64 and CPython 3.11, for a machine without network
  --where       only print the folder, whether it exists or not

The package comes from PyPI by python3 -m pip; nothing is installed. Checked by SHA-256.
HELP
}

say() { echo "fetch_cudnn_frontend: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# Leaves the wheel in the current folder.
download() {
  python3 -m pip --version > /dev/null 2>&1 ||
    die "python3 has no pip; install python3-pip, or fetch the wheel elsewhere and give --wheel"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --implementation cp --python-version "$PYTHON" --abi "cp$PYTHON" \
    --platform manylinux_2_28_x86_64 "$PACKAGE==$VERSION" > pip.log 2>&1 ||
    die "pip cannot download $PACKAGE $VERSION from PyPI: $(tail -n 1 pip.log)." \
      "Without network, fetch $WHEEL elsewhere and give --wheel"
}

main() {
  local cache target wheel=''
  cache=${VKV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vkv}
  target=$cache/cudnn-frontend/include

  case ${1-} in
    '') ;;
    --wheel)
      [ -f "${2-}" ] || die "--wheel needs a file; '${2-}' is none"
      wheel=$(realpath "$2")
      ;;
    --where) echo "$target" && return ;;
    --help | -h) usage && return ;;
    *) die "unknown option '$1'; see --help" ;;
  esac

  if [ -f "$target/cudnn_frontend.h" ]; then
    echo "$target"
    return
  fi
  mkdir -p "$cache" || die "cannot make the cache folder $cache; set VKV_CACHE to another"
  # Not local: the trap outlives this function.
  work=$(mktemp -d "$cache/fetching.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  if [ -z "$wheel" ]; then
    say "fetching $PACKAGE $VERSION (12 MB) from PyPI"
    download
    wheel=$work/$WHEEL
  fi
  echo "$WHEEL_SHA256  $wheel" | sha256sum --check --status - ||
    die "$wheel is not $WHEEL as published (its SHA-256 differs): a broken or another download"
  python3 -m zipfile -e "$wheel" unpacked || die "cannot unpack $wheel"
  mkdir made && mv unpacked/include made/include
  cp unpacked/*.dist-info/licenses/* made 2> /dev/null || cp unpacked/*.dist-info/LICENSE* made
  # Atomic: a folder of this name is always whole.
  rm -rf "$cache/cudnn-frontend"
  mv made "$cache/cudnn-frontend"
  echo "$target"
}

main "$@"

#!/bin/bash
# fetch_cudnn_frontend.sh: fetches the headers of cuDNN's frontend, once a machine.
# SPDX-License-Identifier: Apache-2.0
#
# kernels/cudnn_attention.cpp is compiled with them; cuDNN's own headers come with CUDA or with a
# package libcudnn9-dev. The wheel holds a Python module too, which is left in it.
# shellcheck disable=SC2034  # fetch_wheel.sh reads what is set here
set -euo pipefail

readonly PACKAGE='nvidia-cudnn-frontend' VERSION='1.32.0' PYTHON='311'
readonly WHEEL_TAG='manylinux_2_27_x86_64.manylinux_2_28_x86_64'
readonly WHEEL="nvidia_cudnn_frontend-$VERSION-cp$PYTHON-cp$PYTHON-$WHEEL_TAG.whl"
readonly DOWNLOAD_SIZE='12 MB'
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

readonly PIP_FLAGS=(--implementation cp --python-version "$PYTHON" --abi "cp$PYTHON"
  --platform manylinux_2_28_x86_64)
# shellcheck source=tools/fetch_wheel.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch_wheel.sh"

is_there() { [ -f "$1/cudnn_frontend.h" ]; }

unpack() {
  local kept
  kept=$(dirname "$2")
  python3 -m zipfile -e "$1" unpacked || die "cannot unpack $1"
  mkdir made && mv unpacked/include made/include
  cp unpacked/*.dist-info/licenses/* made 2> /dev/null || cp unpacked/*.dist-info/LICENSE* made
  # Atomic: a folder of this name is always whole.
  rm -rf "$kept"
  mv made "$kept"
}

fetch_wheel "$(cache_folder)/cudnn-frontend/include" "$@"

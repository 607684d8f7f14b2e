#!/bin/bash
# fetch_nanobind.sh: fetches nanobind, with which the Python module is made, once a machine.
# SPDX-License-Identifier: Apache-2.0
#
# Debian 12 has none. The wheel has headers, sources and CMake's files; nothing in it is compiled.
# shellcheck disable=SC2034  # fetch_wheel.sh reads what is set here
set -euo pipefail

readonly PACKAGE='nanobind' VERSION='2.9.2'
readonly WHEEL="nanobind-$VERSION-py3-none-any.whl"
readonly DOWNLOAD_SIZE='240 KB'
readonly WHEEL_SHA256='c37957ffd5eac7eda349cff3622ecd32e5ee1244ecc912c99b5bc8188bafd16e'

usage() {
  cat <<HELP
Usage: tools/fetch_nanobind.sh [--wheel FILE | --where | --help]

Fetches nanobind $VERSION (BSD) into the cache (VKV_CACHE, else XDG_CACHE_HOME/vkv, else
~/.cache/vkv), where CMake finds it, and prints the folder. If it is there, only prints.
'tools/setup.sh --python' calls this; then a build makes the Python module (tools/python/README.md).

  --wheel FILE  take it from this copy of $PACKAGE's wheel, for a machine without network
  --where       only print the folder, whether it exists or not

The package comes from PyPI by python3 -m pip; nothing is installed. Checked by SHA-256.
HELP
}

readonly PIP_FLAGS=()
# shellcheck source=tools/fetch_wheel.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch_wheel.sh"

is_there() { [ -f "$1/cmake/nanobind-config.cmake" ]; }

unpack() {
  python3 -m zipfile -e "$1" unpacked || die "cannot unpack $1"
  cp unpacked/*.dist-info/licenses/LICENSE unpacked/nanobind/ 2> /dev/null ||
    cp unpacked/*.dist-info/LICENSE unpacked/nanobind/
  # Atomic: a folder of this name is always whole.
  rm -rf "$2"
  mv unpacked/nanobind "$2"
}

fetch_wheel "$(cache_folder)/nanobind" "$@"

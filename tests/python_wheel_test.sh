#!/bin/bash
# The wheel installs with pip, and the module in it runs without the build's folders.
# SPDX-License-Identifier: Apache-2.0
#
# python_wheel_test.sh BUILD_FOLDER SOURCE_FOLDER PYTHON
set -euo pipefail

readonly BUILD=$1 SOURCE=$2 PYTHON=$3
"$PYTHON" -m pip --version > /dev/null 2>&1 || { echo "this Python has no pip" && exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

wheel=$("$PYTHON" "$SOURCE/tools/python/make_wheel.py" "$BUILD" "$work")
"$PYTHON" -m pip install --quiet --no-deps --no-index --disable-pip-version-check \
  --target "$work/packages" "$wheel" 2> "$work/pip.log" || { cat "$work/pip.log" && exit 1; }
cd "$work"
PYTHONPATH="$work/packages" "$PYTHON" - << 'PROGRAM'
import pathlib
import vkv

assert "packages" in vkv.__file__, vkv.__file__
libraries = pathlib.Path("/proc/self/maps").read_text()
assert f"{pathlib.Path(vkv.__file__).parent}/libdnnl.so" in libraries, "another oneDNN"
cache = vkv.KvCache(layers=1, q_heads=8, kv_heads=2, head_dim=64, dram_bytes_max=64 << 20)
sequence = cache.create_sequence()
assert cache.stats()["sequence_count"] == 1
try:
    cache.erase(sequence + 1)
    raise SystemExit("an unknown sequence was erased")
except KeyError as error:
    assert "there is no sequence" in str(error)
cache.close()
try:
    cache.create_sequence()
    raise SystemExit("a closed cache was used")
except ValueError as error:
    assert "closed" in str(error)
PROGRAM
echo "python_wheel_test: all right"

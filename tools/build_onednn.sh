#!/bin/bash
# build_onednn.sh: builds the oneDNN that vkv computes with, once a machine.
# SPDX-License-Identifier: Apache-2.0
#
# Debian 12 has oneDNN 2.6 on OpenMP. vkv needs 3.7: the micro-kernel API, and oneTBB under it, so
# that all threads come from one pool. The source is Debian 13's package, fetched from the mirror
# that apt on this machine already uses and verified by apt's signatures.
#
# The result lands in CACHE/onednn-KEY, where KEY is this file's own SHA-256: change the recipe and
# the next setup builds anew. tools/find_onednn.cmake computes the same path.
set -euo pipefail

readonly VERSION='3.7.2+ds-2'

usage() {
  cat <<'HELP'
Usage: tools/build_onednn.sh [--where | --force | --help]

Builds oneDNN 3.7.2 into a folder of the cache (VKV_CACHE, else XDG_CACHE_HOME/vkv, else
~/.cache/vkv) and prints its path. If it is there, only prints. tools/setup.sh calls this.

  --where   only print the folder, whether it exists or not
  --force   build even if it is there

Takes about 8 minutes on 2 idle cores, 0.5 GB of disk meanwhile and 14 MB afterwards.
HELP
}

say() { echo "build_onednn: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# Prints the location of the Debian archive that this machine's apt uses; empty if it has no package
# lists. Arguments: options for apt.
debian_mirror() {
  # The format's $(...) are apt's own, not the shell's. Security archives have another label.
  # shellcheck disable=SC2016
  apt-get "$@" indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
    sed -n 's/^Debian|//p' | sed -n 1p
}

# Leaves the unpacked source in ./src. Reads the machine's apt settings (proxies, certificates) but
# keeps lists of its own, so that the machine's stay on Debian 12.
fetch_source() {
  local mirror
  mirror=$(debian_mirror)
  if [ -z "$mirror" ]; then
    mkdir -p machine/lists/partial
    local here=(-o Dir::State::Lists="$PWD/machine/lists" -o Dir::Cache="$PWD/machine")
    apt-get "${here[@]}" -qq -o APT::Sandbox::User= update || true
    mirror=$(debian_mirror "${here[@]}")
  fi
  [ -n "$mirror" ] || die "apt on this machine knows no Debian archive that can be reached"

  mkdir -p apt/lists/partial apt/archives/partial
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" \
    > apt/sources.list
  local options=(
    -qq -o Dir::Etc::SourceList="$PWD/apt/sources.list" -o Dir::Etc::SourceParts=-
    -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt"
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=
  )
  { apt-get "${options[@]}" update &&
    apt-get "${options[@]}" source --download-only "onednn=$VERSION"; } ||
    die "cannot fetch the source package onednn $VERSION of Debian 13 (trixie) from $mirror;" \
      "use a mirror that has it"
  # apt has checked the files against the signed index; the uploader's key is not on Debian 12.
  dpkg-source --no-check -x "onednn_$VERSION.dsc" src > unpack.log 2>&1 ||
    die "cannot unpack onednn_$VERSION.dsc: $(tail -n 1 unpack.log)"
}

# Inserts lines ($3) before the one line of a file ($1) that is exactly $2.
insert_before() {
  [ "$(grep -cxF -- "$2" "$1")" = 1 ] || die "the recipe does not fit: no single line '$2' in $1"
  awk -v line="$2" -v text="$3" '$0 == line { print text } { print }' "$1" > "$1.new"
  mv "$1.new" "$1"
}

# shellcheck disable=SC2016  # the ${...} are CMake's
# Takes out what vkv never calls (convolutions, RNNs, pooling...): half of the build time.
trim_source() {
  # These folders' files mostly generate machine code; how fast they do it does not matter.
  sed -i '1i add_compile_options(-O1)' src/src/common/CMakeLists.txt
  insert_before src/src/cpu/x64/CMakeLists.txt 'if(CMAKE_CXX_COMPILER_ID STREQUAL "Intel")' '
add_compile_options(-O1)
list(FILTER SOURCES EXCLUDE REGEX "/x64/(rnn|lrn|shuffle|prelu)/.*[.]cpp$")
foreach(unused _conv_ _conv[.] ip_conv convolution deconv resampling pool normalization layer_norm
               group_norm inner_product[.] brgemm_inner_product bf16_inner_product shuffle
               brdgmm_dw transpose_utils)
  list(FILTER SOURCES EXCLUDE REGEX "/x64/[^/]*${unused}[^/]*$")
endforeach()'
  insert_before src/src/cpu/CMakeLists.txt 'foreach(SOURCE_FILE ${SOURCES_EXTRA})' '
foreach(unused convolution deconv resampling pooling normalization shuffle prelu lrn)
  list(FILTER SOURCES EXCLUDE REGEX "/cpu/(ref|nc|nspc|simple|gemm)[^/]*_[^/]*${unused}[^/]*$")
endforeach()
list(FILTER SOURCES EXCLUDE REGEX "/cpu/(ref|gemm|gemm_x8s8s32x)_inner_product(_int8)?[.]cpp$")
list(FILTER SOURCES_EXTRA EXCLUDE REGEX "/cpu/rnn/")'
  # Without the hand-tuned gemm (see below) a matmul on AVX2 must ask the generated one first.
  insert_before src/src/cpu/matmul/cpu_matmul_list.cpp '        CPU_INSTANCE(gemm_f32_matmul_t)' \
    '        CPU_INSTANCE_AVX2(brgemm_matmul_t<avx2>)'
}

# GEMM_KERNELS_ISA=NONE leaves out the hand-tuned kernels behind dnnl_sgemm: 76 files, as slow to
# build as all the rest. matmul and the micro-kernels generate theirs (brgemm) from AVX2 on; what
# stays slow is an int8 matmul on AVX2 without VNNI.
configure_and_build() {
  cmake -S src -B build -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_INSTALL_PREFIX="$PWD/installed" -DCMAKE_INSTALL_LIBDIR=lib \
    -DCMAKE_CXX_FLAGS_RELEASE="-O2 -DNDEBUG" \
    -DCMAKE_SHARED_LINKER_FLAGS="-Wl,--no-undefined -Wl,-s" \
    -DCMAKE_INSTALL_RPATH="\$ORIGIN;\$ORIGIN/$(dpkg-architecture -qDEB_HOST_MULTIARCH)" \
    -DONEDNN_LIBRARY_TYPE=SHARED -DONEDNN_CPU_RUNTIME=TBB -DONEDNN_GPU_RUNTIME=NONE \
    -DONEDNN_ENABLE_WORKLOAD=INFERENCE \
    "-DONEDNN_ENABLE_PRIMITIVE=MATMUL;REORDER;SOFTMAX;BINARY;ELTWISE" \
    -DONEDNN_ENABLE_PRIMITIVE_CPU_ISA=ALL -DONEDNN_ENABLE_GEMM_KERNELS_ISA=NONE \
    -DONEDNN_EXPERIMENTAL_UKERNEL=ON -DONEDNN_ARCH_OPT_FLAGS="" \
    -DONEDNN_BUILD_GRAPH=OFF -DONEDNN_BUILD_TESTS=OFF -DONEDNN_BUILD_EXAMPLES=OFF \
    -DONEDNN_ENABLE_ITT_TASKS=OFF -DONEDNN_ENABLE_JIT_PROFILING=OFF > configure.log 2>&1 ||
    die "oneDNN does not configure: $(tail -n 20 configure.log)"
  if [ -t 2 ]; then  # ninja counts on one line of the terminal
    ninja -C build install/strip 1>&2 || die "oneDNN does not build; the error is above"
  else
    ninja -C build install/strip > build.log || die "oneDNN does not build: $(tail -n 40 build.log)"
  fi
}

main() {
  local cache key target force=0
  cache=${VKV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vkv}
  key=$(sha256sum < "${BASH_SOURCE[0]}" | cut -c 1-16)
  target=$cache/onednn-$key

  case ${1-} in
    '') ;;
    --force) force=1 ;;
    --where) echo "$target" && return ;;
    --help | -h) usage && return ;;
    *) die "unknown option '$1'; see --help" ;;
  esac

  mkdir -p "$cache" || die "cannot make the cache folder $cache; set VKV_CACHE to another"
  exec 9> "$cache/lock"
  flock -n 9 || { say "another build holds $cache/lock; waiting for it" && flock 9; }
  if [ -d "$target" ] && [ "$force" = 0 ]; then
    echo "$target"
    return
  fi

  say "building oneDNN ${VERSION%+*} into $target (about 8 minutes on 2 idle cores, once)"
  # Not local: the trap outlives this function.
  work=$(mktemp -d "$cache/building.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  (
    cd "$work"
    fetch_source
    trim_source
    configure_and_build
  )
  # Atomic: a folder of this name is always whole.
  rm -rf "$target"
  mv "$work/installed" "$target"
  say "done after $((SECONDS / 60)) min $((SECONDS % 60)) s"
  echo "$target"
}

main "$@"

#!/bin/bash
# A project outside the tree builds against what is installed: in C and in C++, shared and static,
# by CMake and by pkg-config, wherever the folder lies; the README's programs are its sources.
# SPDX-License-Identifier: Apache-2.0
#
# package_test.sh BUILD_FOLDER SOURCE_FOLDER PROJECT_FOLDER. The compiler and its flags are those of
# the environment. Installs what is built; builds nothing of vkv.
set -euo pipefail

readonly BUILD=$1 SOURCE=$2 PROJECT=$3
readonly EXPECTED='^out\[0\] = 0.500, [34]\.[0-9]+ bits a value$'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
readonly PREFIX="$work/moved here"

fail() {
  echo "package_test: $*" >&2
  exit 1
}

install_and_move() {
  cmake --install "$BUILD" --prefix "$work/installed" > "$work/install.log"
  mv "$work/installed" "$PREFIX"
}

only_public_headers_are_installed() {
  diff <(cd "$SOURCE/runtime/include" && find . -type f | sort) \
    <(cd "$PREFIX/include" && find . -type f | sort) || fail "other headers than the public ones"
  diff -r "$SOURCE/runtime/include" "$PREFIX/include"
}

# The C ABI: exactly the functions of the header. C++: what is in the public headers' namespace, and
# nothing of the parts below it.
only_the_api_is_exported() {
  local library=$PREFIX/lib/libvkv.so
  diff <(grep -oE '\bvkv_[a-z_]+\(' "$PREFIX/include/vkv/vkv.h" | tr -d '(' | sort -u) \
    <(nm -D --defined-only "$library" | awk '$3 ~ /^vkv_/ { print $3 }' | sort) \
    > "$work/c_differences" || true
  [ ! -s "$work/c_differences" ] || fail "vkv.h and exported calls: $(cat "$work/c_differences")"

  nm -D --defined-only -C "$library" | cut -d' ' -f3- | grep -v '^vkv_' | sort > "$work/exported"
  grep -qxF 'vkv::Cache::open(vkv::CacheOptions const&)' "$work/exported" ||
    fail "vkv::Cache::open is not exported"
  local kind='(typeinfo( name)? for |vtable for )?' call='(::open\(|$)'
  grep -vE "^${kind}vkv::(Cache$call|name\(|validate\(|precision_)" \
    "$work/exported" > "$work/too_much" || true
  [ ! -s "$work/too_much" ] || fail "exported beyond the API: $(cat "$work/too_much")"
}

names_and_paths_are_right() {
  local version
  version=$(sed -n 's/^Version: //p' "$PREFIX/lib/pkgconfig/vkv.pc")
  local number='[0-9]+'
  [[ $version =~ ^$number\.$number\.$number$ ]] || fail "version '$version'"
  if [ -x "$PREFIX/bin/vkv" ]; then
    [ "$("$PREFIX/bin/vkv" --version)" = "vkv $version" ] || fail "vkv --version is not $version"
  fi
  local abi=${version%.*}  # 0.x: the second number may break it
  [ "${version%%.*}" = 0 ] || abi=${version%%.*}
  readelf -d "$PREFIX/lib/libvkv.so" > "$work/dynamic"
  grep -qF "soname: [libvkv.so.$abi]" "$work/dynamic" || fail "the shared library's soname"
  # shellcheck disable=SC2016  # $ORIGIN is the loader's
  grep -qE 'RUNPATH.*\[\$ORIGIN/vkv' "$work/dynamic" || fail "the shared library's run path"
  ! grep -rlF -e "$BUILD" -e "$SOURCE" -e "$work/installed" "$PREFIX/lib/cmake" \
    "$PREFIX/lib/pkgconfig" || fail "paths of this machine in the files above"
}

runs_right() {
  local said
  said=$("$1") || fail "$1 ended with $?"
  [[ $said =~ $EXPECTED ]] || fail "$1 said: $said"
}

# uses_library PROGRAM yes|no
uses_library() {
  local found=no
  ldd "$1" > "$work/libraries"
  ! grep -q 'not found' "$work/libraries" || fail "$1: $(grep 'not found' "$work/libraries")"
  ! grep -qF libvkv.so "$work/libraries" || found=yes
  [ "$found" = "$2" ] || fail "$1 uses libvkv.so: $found"
}

by_cmake() {
  local kind=$1 shared=$2 uses=$3
  cmake -S "$PROJECT" -B "$work/$kind" -G Ninja -DCMAKE_PREFIX_PATH="$PREFIX" \
    -DBUILD_SHARED_LIBS="$shared" > "$work/$kind.log" || fail "$(cat "$work/$kind.log")"
  cmake --build "$work/$kind" > "$work/$kind.log" || fail "$(cat "$work/$kind.log")"
  for program in program program_in_c; do
    uses_library "$work/$kind/$program" "$uses"
    runs_right "$work/$kind/$program"
  done
}

# The C++ program is compiled once: the flags to compile with are the same for both kinds.
by_pkg_config() {
  export PKG_CONFIG_PATH="$PREFIX/lib/pkgconfig"
  local flags libs libdir
  eval "flags=($(pkg-config --cflags vkv))"
  libdir=$(pkg-config --variable=libdir vkv)
  # shellcheck disable=SC2086  # several flags
  "${CC:-cc}" ${CFLAGS:-} -std=c11 "${flags[@]}" -c "$PROJECT/program.c" -o "$work/c.o"
  # shellcheck disable=SC2086
  "${CXX:-c++}" ${CXXFLAGS:-} -std=c++20 "${flags[@]}" -c "$PROJECT/program.cpp" -o "$work/cpp.o"
  for language in c cpp; do
    local linker="${CXX:-c++} ${CXXFLAGS:-}"
    [ "$language" = cpp ] || linker="${CC:-cc} ${CFLAGS:-}"
    eval "libs=($(pkg-config --libs vkv))"
    $linker "$work/$language.o" "${libs[@]}" "-Wl,-rpath,${libdir//\\/}" -o "$work/$language.shared"
    uses_library "$work/$language.shared" yes
    runs_right "$work/$language.shared"
    eval "libs=($(pkg-config --libs vkv-static))"
    $linker "$work/$language.o" "${libs[@]}" -o "$work/$language.static"
    uses_library "$work/$language.static" no
    runs_right "$work/$language.static"
  done
}

# What is not there is told by find_package.
wrong_requests_are_told() {
  mkdir "$work/wrong"
  # shellcheck disable=SC2016  # ${REQUEST} is CMake's
  printf '%s\n' 'cmake_minimum_required(VERSION 3.25)' 'project(wrong NONE)' \
    'find_package(vkv ${REQUEST})' > "$work/wrong/CMakeLists.txt"
  for request in '9.0;REQUIRED' 'REQUIRED;COMPONENTS;shred'; do
    ! cmake -S "$work/wrong" -B "$work/wrong/build" -DCMAKE_PREFIX_PATH="$PREFIX" \
      "-DREQUEST=$request" > "$work/wrong.log" 2>&1 || fail "find_package(vkv $request) went well"
  done
  grep -q "no component 'shred'" "$work/wrong.log" || fail "$(cat "$work/wrong.log")"
}

install_and_move
only_public_headers_are_installed
only_the_api_is_exported
names_and_paths_are_right
by_cmake shared ON yes
by_cmake static OFF no
by_pkg_config
wrong_requests_are_told
echo "package_test: all right"

#!/bin/bash
# stage_prefix.sh: copies the libraries that vkv needs into one folder that can be carried away.
# SPDX-License-Identifier: Apache-2.0
#
# tools/setup.sh --prefix calls this. The folder can lie anywhere: CMake's package files compute
# their place, pkg-config's files are rewritten to do so, shared libraries find their neighbours
# through $ORIGIN. It holds a pkg-config too. What it expects is Debian's or Ubuntu's layout of
# library folders, glibc 2.36 or newer, a C++20 compiler, CMake 3.25 and Ninja.
set -euo pipefail

# Each -dev package and the run-time packages behind it. libudev1 is hwloc's.
readonly PACKAGES=(
  libtbb-dev libtbb12 libtbbmalloc2 libtbbbind-2-5
  libhwloc-dev libhwloc15 libudev1
  liburing-dev liburing2
  libgtest-dev
  libcli11-dev nlohmann-json3-dev
  libspdlog-dev libspdlog1.10 libfmt-dev libfmt9
  libpcre2-dev libpcre2-8-0
  libutf8proc-dev libutf8proc2
  libpkgconf3
)
readonly SIZE_MIB_MAX=30

die() {
  echo "stage_prefix: $*" >&2
  exit 1
}

# Prints the files of the packages that a build or a run needs, as paths under /usr.
needed_files() {
  # Debian lists some libraries under /lib, which is /usr/lib.
  dpkg -L "${PACKAGES[@]}" | sed 's#^/lib/#/usr/lib/#' | grep -E \
    -e '^/usr/include/.*[^/]\.(h|hpp|ipp)$|^/usr/include/(tbb|oneapi)/.*' \
    -e '^/usr/lib/.*\.so(\.[0-9.]+)?$|/libgtest(_main)?\.a$' \
    -e '^/usr/(lib|share)/.*\.(cmake|pc)$' |
    grep -vE '^/usr/share/doc/|pcre2-(16|32|posix)' | while read -r file; do
      [ -d "$file" ] || echo "${file#/usr/}"
    done | sort -u
}

# Debian keeps headers that depend on the processor apart; compilers elsewhere look in one folder.
join_headers() {
  cp -a "include/$1/." include
  rm -rf "include/$1"
}

# Moves the pkg-config files to lib/pkgconfig, where CMake looks on every system, and makes them
# find the folder from their own place.
relocate_pkgconfig() {
  mkdir -p lib/pkgconfig
  find . -name '*.pc' -exec mv -t lib/pkgconfig {} +
  find . -type d -empty -delete
  # shellcheck disable=SC2016  # the ${...} are pkg-config's
  sed -i -e 's#/usr\b#${prefix}#g' -e 's#^prefix=.*#prefix=${pcfiledir}/../..#' lib/pkgconfig/*.pc
  grep -L '^prefix=' lib/pkgconfig/*.pc | while read -r file; do
    # shellcheck disable=SC2016
    sed -i '1i prefix=${pcfiledir}/../..' "$file"
  done
}

main() {
  [ $# = 2 ] || [ $# = 3 ] ||
    die "usage: tools/stage_prefix.sh DIR ONEDNN [CUDNN_HEADERS]; see tools/setup.sh --help"
  local target onednn=$2 cudnn_headers=${3-} machine libraries package
  target=$(realpath -m "$1")
  [ ! -e "$target" ] || [ -f "$target/share/vkv/staged" ] ||
    die "$target exists and was not made by this script; name another folder or remove it"
  machine=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
  libraries=lib/$machine

  mkdir -p "$(dirname "$target")"
  # Not local: the trap outlives this function.
  work=$(mktemp -d "$target.XXXXXX")
  trap 'rm -rf "$work"' EXIT

  # 1. The files.
  needed_files | tar -C /usr -cf - -T - | tar -C "$work" -xf -
  cp -a "$onednn/." "$work"
  if [ -n "$cudnn_headers" ]; then
    cp -a "$cudnn_headers/." "$work/include"
    install -D -m 644 -t "$work/share/doc/cudnn-frontend" "$cudnn_headers"/../LICENSE*
  fi
  mkdir -p "$work/bin" && cp -L /usr/bin/pkg-config "$work/bin/pkg-config"
  for package in "${PACKAGES[@]}"; do
    install -D -m 644 "/usr/share/doc/$package/copyright" "$work/share/doc/$package/copyright"
  done

  # 2. Their paths.
  (
    cd "$work"
    join_headers "$machine"
    relocate_pkgconfig
    # shellcheck disable=SC2016  # $ORIGIN is the loader's
    find "$libraries" -name '*.so.*' -type f -exec patchelf --set-rpath '$ORIGIN' {} +
    patchelf --set-rpath "\$ORIGIN/../$libraries" bin/pkg-config
    mkdir -p share/vkv && printf '%s\n' "${PACKAGES[@]}" | xargs dpkg-query -W > share/vkv/staged
  )

  # 3. In place at once.
  local size_mib
  size_mib=$(du -sm --apparent-size "$work" | cut -f 1)
  [ "$size_mib" -lt "$SIZE_MIB_MAX" ] || die "$size_mib MiB staged; the limit is $SIZE_MIB_MAX"
  chmod 755 "$work"
  rm -rf "$target"
  mv "$work" "$target"
  echo "stage_prefix: $size_mib MiB in $target; build with -DCMAKE_PREFIX_PATH=$target"
}

main "$@"

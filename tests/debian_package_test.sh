#!/bin/bash
# The Debian packages have what their names promise, say what they depend on, install and go.
# SPDX-License-Identifier: Apache-2.0
#
# debian_package_test.sh BUILD_FOLDER SOURCE_FOLDER. They are installed into a folder of their own,
# with a package database of its own; the machine's is not touched.
set -euo pipefail

readonly BUILD=$1 SOURCE=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "debian_package_test: $*" >&2
  exit 1
}

# field PACKAGE NAME
field() { dpkg-deb -f "$work/$1"_*.deb "$2"; }

# has PACKAGE PATTERN: a file or link.
has() {
  dpkg-deb -c "$work/$1"_*.deb | awk '{ print $6 }' > "$work/contents"
  grep -qE "^\./$2$" "$work/contents" || fail "$1 has no $2: $(cat "$work/contents")"
}

has_not() {
  dpkg-deb -c "$work/$1"_*.deb | awk '{ print $6 }' > "$work/contents"
  ! grep -E "$2" "$work/contents" || fail "$1 has the files above"
}

for needed in cpack dpkg-deb dpkg-shlibdeps file; do
  command -v "$needed" > /dev/null || { echo "there is no $needed here" && exit 77; }
done
cpack --config "$BUILD/CPackConfig.cmake" -B "$work" > "$work/cpack.log" 2>&1 ||
  fail "cpack: $(cat "$work/cpack.log")"
library=$(cd "$work" && echo libvkv[0-9]*_*.deb)
library=${library%%_*}
version=$(field vkv Version)

[ "$(field "$library" Version)" = "$version" ] || fail "versions differ"
[[ $(field "$library" Depends) == *libtbb12*liburing2* ]] || fail "$(field "$library" Depends)"
[[ $(field libvkv-dev Depends) == "$library (= $version), "* ]] || fail "libvkv-dev's depends"
[[ $(field vkv Depends) == "$library (= $version), "* ]] || fail "vkv's depends"

has "$library" "usr/lib/libvkv.so.$version"
has "$library" "usr/lib/vkv/libdnnl\.so\.[0-9.]+"
has "$library" usr/share/doc/vkv/copyright
has_not "$library" '\.(h|a|cmake|pc)$|bin/'
for header in "$SOURCE"/runtime/include/vkv/*.h; do
  has libvkv-dev "usr/include/vkv/${header##*/}"
done
has libvkv-dev usr/lib/libvkv.so
has libvkv-dev usr/lib/libvkv.a
has libvkv-dev usr/lib/cmake/vkv/vkv-config.cmake
has libvkv-dev usr/lib/pkgconfig/vkv.pc
has_not libvkv-dev 'bin/|libdnnl'
has vkv usr/bin/vkv
has_not vkv 'include|usr/lib/'

root=$work/root
mkdir -p "$root/var/lib/dpkg/"{updates,info} "$work/bin"
touch "$root/var/lib/dpkg/status"
# The packages' scripts call ldconfig, and must not do so for the machine.
printf '#!/bin/sh\necho called >> "%s/ldconfig.log"\n' "$work" > "$work/bin/ldconfig"
chmod +x "$work/bin/ldconfig"
# What they depend on is not in that folder, which dpkg only tells.
in_root() {
  PATH="$work/bin:$PATH" dpkg --root="$root" --force-depends --force-script-chrootless "$@" \
    > "$work/dpkg.log" 2>&1 || fail "dpkg $1: $(cat "$work/dpkg.log")"
}
if [ "$(id -u)" = 0 ]; then
  in_root -i "$work"/*.deb
  [ -s "$work/ldconfig.log" ] || fail "ldconfig was not called"
  [ "$("$root/usr/bin/vkv" --version)" = "vkv $version" ] || fail "the installed program"
  in_root --purge vkv libvkv-dev "$library"
  left=$(find "$root" -not -path "$root/var*" -mindepth 1)
  [ -z "$left" ] || fail "left behind: $left"
fi
echo "debian_package_test: all right"

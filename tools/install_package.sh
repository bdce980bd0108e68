#!/bin/sh
# install_package.sh PACKAGE WHAT: installs a package of Debian or Ubuntu, and keeps it from starting a service of the system.
# WHAT says to people without apt-get what they need.
set -eu

package=$1
what=$2

if ! command -v apt-get >/dev/null; then
    echo "error: install $what (there is no apt-get here to do it)." >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "error: as root run: apt-get install --no-install-recommends $package" >&2
        echo "       What is needed is $what." >&2
        exit 1
    fi
    echo "$package is missing: sudo may ask for your password to install it." >&2
    exec sudo "$0" "$@"
fi

# 101 is the answer by which Debian's packages learn that they may not start their services.
policy=/usr/sbin/policy-rc.d
saved=$policy.before-trivium
log=$(mktemp)
put_back() {
    rm -f "$policy" "$log"
    [ ! -e "$saved" ] || mv "$saved" "$policy"
}
trap put_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
[ -e "$saved" ] || [ ! -e "$policy" ] || mv "$policy" "$saved"
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

echo "Installing $package ..." >&2
export DEBIAN_FRONTEND=noninteractive
if ! {
    apt-get -q update &&
        apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$package"
} >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    echo "error: $package could not be installed; apt-get said the above." >&2
    exit 1
fi
if [ -d /run/systemd/system ]; then
    echo "Its system service was not started; \`systemctl disable $package\` keeps it from starting at boot." >&2
fi

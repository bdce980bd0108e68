#!/bin/sh
# Installs RabbitMQ from Debian's or Ubuntu's packages where there is none, and keeps the package from starting a
# system-wide broker: tools/rabbitmq.py runs private ones. Does nothing where AMQP_URL names a broker.
set -eu

[ -z "${AMQP_URL:-}" ] || exit 0
[ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || exit 0
! command -v rabbitmq-server >/dev/null || exit 0

if ! command -v apt-get >/dev/null; then
    echo 'error: install RabbitMQ 3.10 or later (there is no apt-get here to do it), or set AMQP_URL to a broker.' >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo 'error: RabbitMQ is missing. As root run: apt-get install --no-install-recommends rabbitmq-server' >&2
        echo '       Or set AMQP_URL to a broker.' >&2
        exit 1
    fi
    echo 'RabbitMQ is missing: sudo may ask for your password to install it.' >&2
    exec sudo "$0"
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

echo 'Installing rabbitmq-server ...' >&2
export DEBIAN_FRONTEND=noninteractive
if ! {
    apt-get -q update &&
        apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends rabbitmq-server
} >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    echo 'error: rabbitmq-server could not be installed; apt-get said the above.' >&2
    exit 1
fi
if [ -d /run/systemd/system ]; then
    echo 'Its system service was not started; `systemctl disable rabbitmq-server` keeps it from starting at boot.' >&2
fi

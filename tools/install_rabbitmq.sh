#!/bin/sh
# Installs RabbitMQ from Debian's or Ubuntu's packages where there is none: tools/rabbitmq.py runs private ones. Does nothing
# where AMQP_URL names a broker.
set -eu

[ -z "${AMQP_URL:-}" ] || exit 0
[ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || exit 0
! command -v rabbitmq-server >/dev/null || exit 0

exec "$(dirname "$0")/install_package.sh" rabbitmq-server 'RabbitMQ 3.10 or later, or set AMQP_URL to a broker'

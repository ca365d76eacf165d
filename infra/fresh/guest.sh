#!/bin/bash
# What a newcomer does on a minimal Debian, then tests; runs inside of the system that run.sh built.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
update-ca-certificates >/dev/null 2>&1 || true
export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
apt-get update -q >/dev/null
# shellcheck disable=SC2086 # a list of words
apt-get install -y -q --no-install-recommends $BASE_PACKAGES >/dev/null
cd /root/wherry
echo "npm $(npm --version), node $(node --version)"
make setup
make demo
make install
(cd / && wherry version)
make test-unit
make test-redis
make t F=test/root/container.test.ts

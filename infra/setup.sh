#!/bin/bash
# Prepares a Debian 12 or 13 machine for Wherry: missing Debian packages, Node, npm packages, the native
# library.  Idempotent.  Starts no service and keeps apt from starting one.
#   setup.sh            what running Wherry needs
#   setup.sh --dev      also what building and the unit and redis tests need
#   setup.sh --engines  also the engines that the root and e2e tests compare with
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

RUN_PACKAGES=(redis-server docker-registry libseccomp2 util-linux tar ca-certificates)
BUILD_PACKAGES=(gcc libc6-dev make libisal-dev libzstd-dev libssl-dev)
TEST_PACKAGES=(busybox-static curl skopeo runc openssl bzip2 xz-utils)
ENGINE_PACKAGES=(podman docker.io buildah umoci)
DEV_PACKAGES=(clang-format)
POLICY=/usr/sbin/policy-rc.d
WANTED=("${RUN_PACKAGES[@]}" "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}")
dev=''
case ${1:-} in
  '') ;;
  --dev) dev=yes; WANTED+=("${DEV_PACKAGES[@]}") ;;
  --engines) dev=yes; WANTED+=("${DEV_PACKAGES[@]}" "${ENGINE_PACKAGES[@]}") ;;
  *) echo "wherry: setup: unknown option $1; use --dev, --engines or none" >&2; exit 64 ;;
esac

say () { echo "setup: $*"; }
die () { echo "wherry: setup: $*" >&2; exit 1; }

missing_packages () {
  local have
  have=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' 2>/dev/null | sed -n 's/ installed$//p')
  comm -23 <(printf '%s\n' "${WANTED[@]}" | sort -u) <(sort -u <<<"$have")
}

restore_policy () {
  rm -f "$POLICY"
  [ ! -e "$POLICY.before-wherry" ] || mv "$POLICY.before-wherry" "$POLICY"
}

# Packages contain services (redis-server.service …); 101 tells their install scripts not to start them.
forbid_service_starts () {
  trap restore_policy EXIT
  [ ! -e "$POLICY" ] || mv "$POLICY" "$POLICY.before-wherry"
  printf '#!/bin/sh\nexit 101\n' >"$POLICY"
  chmod 755 "$POLICY"
}

apt_install () {
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" >build/apt.log 2>&1
}

install_packages () {
  local wanted=("$@")
  [ "$(id -u)" = 0 ] || die "Debian packages are missing (${wanted[*]}); run make setup as root, or apt-get install ${wanted[*]}"
  command -v apt-get >/dev/null || die "this machine has no apt-get; make setup supports Debian 12 and 13; elsewhere install ${wanted[*]} yourself"
  say "installing ${wanted[*]}"
  forbid_service_starts
  # Fetch package lists only if the installation fails with the existing ones.
  if ! apt_install "${wanted[@]}"; then
    say 'fetching package lists'
    apt-get update -q >build/apt.log 2>&1 || { tail -n 5 build/apt.log >&2; die 'apt-get update failed; check the network and the mirror in /etc/apt/sources.list'; }
    apt_install "${wanted[@]}" || { tail -n 15 build/apt.log >&2; die "apt-get install failed; see $PWD/build/apt.log"; }
  fi
  restore_policy
  trap - EXIT
}

# The system's npm only fetches this Node and this npm; everything else runs under them.  Old npm releases
# drop the link of a program that two packages own, so it is made here.
install_node () {
  [ infra/node/package-lock.json -nt infra/node/node_modules/.installed ] || return 0
  say 'installing Node and npm (infra/node)'
  (cd infra/node && npm ci --ignore-scripts --loglevel=error --no-audit --no-fund) >build/npm.log 2>&1 ||
    { tail -n 15 build/npm.log >&2; die "npm ci failed in infra/node (log: $PWD/build/npm.log)"; }
  local node
  node=$(echo infra/node/node_modules/node-linux-*/bin/node)
  "$node" --version >/dev/null 2>&1 ||
    die "npm installed no Node that runs here ($(uname -m)); Wherry runs on x86-64 and arm64 Linux"
  mkdir -p infra/node/node_modules/.bin
  ln -sfn "../${node#infra/node/node_modules/}" infra/node/node_modules/.bin/node
  touch infra/node/node_modules/.installed
}

# Production packages by default, development packages too with --dev; the latter serve both.
install_npm_packages () {
  local mark=node_modules/.installed omit=--omit=dev installed
  [ -z "$dev" ] || { mark=node_modules/.installed-dev omit=--include=dev; }
  if [ -x node_modules/.bin/node ]; then
    for installed in "$mark" node_modules/.installed-dev; do
      [ ! -e "$installed" ] || [ package-lock.json -nt "$installed" ] || return 0
    done
  fi
  say "installing npm packages${dev:+ for development}"
  PATH=$PWD/infra/node/node_modules/.bin:$PATH npm ci "$omit" --ignore-scripts >build/npm.log 2>&1 ||
    { tail -n 15 build/npm.log >&2; die "npm ci failed (log: $PWD/build/npm.log)"; }
  mkdir -p node_modules/.bin
  ln -sfn ../../infra/node/node_modules/.bin/node node_modules/.bin/node
  touch "$mark"
}

link_commands () {
  local command
  for command in cli/wherry oci/wherry-oci; do
    ln -sfn "../../services/$command" "node_modules/.bin/${command#*/}"
  done
}

mkdir -p build
# Concurrent setups would conflict in node_modules.
exec 9>build/setup.lock
flock 9

command -v dpkg-query >/dev/null || die 'this is not Debian (no dpkg); Wherry runs on Debian 12 and 13'
command -v npm >/dev/null || die 'npm is missing; install it first: apt-get install npm'
mapfile -t missing < <(missing_packages)
[ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}"
install_node
install_npm_packages
make --no-print-directory -s native pack
link_commands
say 'ready'

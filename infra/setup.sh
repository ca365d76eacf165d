#!/bin/bash
# Makes a Debian 12 or 13 machine ready for Wherry: missing Debian packages, npm packages, the native library,
# the `wherry` and `wherry-oci` commands. Run as often as you like: what is there is left alone. `setup.sh
# --engines` also installs what only `make test` needs: the engines to compare with, and clang-format. Knows
# nothing about running services; it makes sure that apt starts none.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

RUN_PACKAGES=(redis-server docker-registry libseccomp2 util-linux tar ca-certificates)
BUILD_PACKAGES=(gcc libc6-dev make libisal-dev libzstd-dev libssl-dev)
TEST_PACKAGES=(busybox-static curl skopeo runc openssl bzip2 xz-utils)
ENGINE_PACKAGES=(podman docker.io buildah umoci)
FORMAT_PACKAGES=(clang-format)
POLICY=/usr/sbin/policy-rc.d
WANTED=("${RUN_PACKAGES[@]}" "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}")
[ "${1:-}" != --engines ] || WANTED+=("${ENGINE_PACKAGES[@]}" "${FORMAT_PACKAGES[@]}")

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

# Packages bring services along (redis-server.service …); 101 tells their scripts to start none.
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
  [ "$(id -u)" = 0 ] || die "Debian packages are missing (${wanted[*]}); run make setup as root, or: apt-get install ${wanted[*]}"
  command -v apt-get >/dev/null || die "this machine has no apt-get; Wherry's setup knows Debian 12 and 13; install by hand: ${wanted[*]}"
  say "installing ${wanted[*]}"
  forbid_service_starts
  # The package lists may be recent enough; fetch them only when they are not.
  if ! apt_install "${wanted[@]}"; then
    say 'fetching package lists'
    apt-get update -q >build/apt.log 2>&1 || { tail -n 5 build/apt.log >&2; die 'apt-get update failed; is there a network, and does /etc/apt/sources.list name a reachable mirror?'; }
    apt_install "${wanted[@]}" || { tail -n 15 build/apt.log >&2; die "apt-get install failed (all of it: $PWD/build/apt.log)"; }
  fi
  restore_policy
  trap - EXIT
}

install_npm_packages () {
  local done_mark=node_modules/.package-lock.json
  if [ -e "$done_mark" ] && [ ! package-lock.json -nt "$done_mark" ] && [ -x node_modules/.bin/node ]; then return; fi
  command -v npm >/dev/null || die 'npm is missing; install Node 20 or newer with npm first (apt-get install npm, or nodejs.org)'
  say 'installing npm packages (npm ci)'
  npm ci >build/npm.log 2>&1 || { tail -n 15 build/npm.log >&2; die "npm ci failed (all of it: $PWD/build/npm.log)"; }
  touch "$done_mark"
  [ -x node_modules/.bin/node ] || die "npm brought no Node for $(uname -m); Wherry runs on x86-64 and arm64 Linux"
}

link_commands () {
  # npm links the bins of dependencies only; `npx wherry` looks here.
  local command
  for command in cli/wherry oci/wherry-oci; do
    [ "$(readlink "node_modules/.bin/${command#*/}" || true)" = "../../services/$command" ] || ln -sfn "../../services/$command" "node_modules/.bin/${command#*/}"
  done
}

mkdir -p build
# Two setups at once would fight over node_modules.
exec 9>build/setup.lock
flock 9

mapfile -t missing < <(missing_packages)
[ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}"
install_npm_packages
make --no-print-directory -s native pack
link_commands
say 'ready'

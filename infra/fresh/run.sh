#!/bin/bash
# Wherry on machines that have nothing: builds minimal Debian systems with debootstrap, clones the committed
# state of this checkout into each, and runs there what a newcomer runs, then tests.
#   infra/fresh/run.sh [SUITE...] default: bookworm trixie (Redis 7 and 8) Needs root and a Debian mirror.
#   Each system lives in build/fresh/SUITE and is removed afterwards; its processes end with their pid
#   namespace, its mounts with their mount namespace.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

ROOT=$PWD
FRESH=$ROOT/build/fresh
MIRROR=${WHERRY_DEBIAN_MIRROR:-http://deb.debian.org/debian}
BASE_PACKAGES='git make npm ca-certificates'
TIME_LIMIT_S=1800

say () { echo "fresh: $*"; }
die () { echo "fresh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die 'debootstrap needs root'
if ! command -v debootstrap >/dev/null; then
  apt-get install -y -q --no-install-recommends debootstrap >/dev/null || die 'debootstrap could not be installed'
fi

suites=("$@")
[ "$#" -gt 0 ] || suites=(bookworm trixie)

# A base system is built once and kept as an archive: later runs unpack it.
make_base () {
  local suite=$1 archive=$FRESH/$1.tar
  if [ ! -e "$archive" ]; then
    say "$suite: debootstrap"
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$FRESH/$suite" "$MIRROR" >"$FRESH/$suite.log" 2>&1 ||
      { tail -n 5 "$FRESH/$suite.log" >&2; die "debootstrap failed (log: $FRESH/$suite.log)"; }
    tar -C "$FRESH" -cf "$archive.new" "$suite"
    mv "$archive.new" "$archive"
  else
    say "$suite: unpacking the base system"
    tar -C "$FRESH" -xf "$archive"
  fi
}

run_suite () {
  local suite=$1 root=$FRESH/$1
  rm -rf "$root"
  make_base "$suite"
  # Certificates and name servers of this machine, as an administrator would have installed them.
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
  git clone -q --no-hardlinks "$ROOT" "$root/root/wherry"
  cp infra/fresh/guest.sh "$root/root/guest.sh"
  say "$suite: $BASE_PACKAGES, make setup, make demo, tests"
  # Mounts and pids of its own: nothing outlives the run.  pivot_root, because a process in a chroot may not
  # create user namespaces (user_namespaces(7)).
  BASE_PACKAGES=$BASE_PACKAGES timeout "$TIME_LIMIT_S" \
    unshare --mount --pid --fork --kill-child --propagation private bash -c '
      set -e
      mount --bind "$1" "$1"
      cd "$1"
      mount -t proc proc proc
      mount --rbind /sys sys
      mount --rbind /dev dev
      mount -t tmpfs tmpfs run
      mkdir -p mnt/host
      pivot_root . mnt/host
      exec /usr/bin/env -i HOME=/root TERM=dumb LANG=C.UTF-8 CI="${CI:-}" BASE_PACKAGES="$BASE_PACKAGES" \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -c "cd / && umount -l /mnt/host && exec bash /root/guest.sh"' - "$root"
}

mkdir -p "$FRESH"
exec 7>"$FRESH/run.lock"
flock -n 7 || die 'another run of this checkout is going on'
trap 'for suite in "${suites[@]}"; do rm -rf --one-file-system "${FRESH:?}/$suite"; done' EXIT

for suite in "${suites[@]}"; do
  started=$SECONDS
  run_suite "$suite" || die "$suite: failed after $((SECONDS - started)) s"
  say "$suite: passed in $((SECONDS - started)) s"
  rm -rf --one-file-system "${FRESH:?}/$suite"
done

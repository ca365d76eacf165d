#!/bin/bash
# Builds small base images from Debian packages, for machines that cannot reach a public registry:
#   wherry/busybox:1 wherry/bash:5 wherry/node:26 wherry/python:3 wherry/go:1 Each becomes a local image, so
#   that `FROM wherry/…` works in `wherry build`. This script unpacks packages into a root file system;
#   `wherry build` builds the images from the Dockerfiles in this folder. Usage: make.sh [name …] (default:
#   busybox bash node python; go is large)
set -euo pipefail
# The files must be readable by other users than root.
umask 022
cd "$(dirname "$(readlink -f "$0")")/../.."

HERE=infra/base-images
WORK=build/base-images
# Node is copied from the project; it is not a Debian package.
declare -A PACKAGES=(
  [busybox]='' [bash]='bash' [node]='libstdc++6 libatomic1 ca-certificates' [python]='python3 ca-certificates' [go]='golang-go ca-certificates'
)
declare -A TAGS=([busybox]=1 [bash]=5 [node]=26 [python]=3 [go]=1)
# Dependencies that only install scripts need. Install scripts are not run here.
UNWANTED='^(dpkg|debconf|debianutils|base-files|mawk|perl-base|tar|openssl|media-types|readline-common)$'

say () { echo "base-images: $*"; }
die () { echo "wherry: base-images: $*" >&2; exit 1; }

# Download the packages "$@" with all dependencies, installed or not, into $WORK/debs. Print their files.
download () {
  local own=$WORK/debs
  mkdir -p "$own/partial"
  : >"$WORK/no-packages"
  local options=(-o "Dir::State::status=$PWD/$WORK/no-packages" -o "Dir::Cache::archives=$PWD/$own" -o Debug::NoLocking=1
    -o APT::Sandbox::User=root --no-install-recommends -qq -y)
  apt-get "${options[@]}" --download-only install "$@" >"$WORK/apt.log" 2>&1 || { tail -n 5 "$WORK/apt.log" >&2; die "apt-get could not fetch $*; try apt-get update first"; }
  local name
  apt-get "${options[@]}" -s install "$@" | awk '$1 == "Inst" { print $2 }' | sort -u | while read -r name; do
    [[ $name =~ $UNWANTED ]] || ls "$own/${name}"_*.deb
  done
}

make_folders () {
  local root=$1 folder
  for folder in bin sbin lib lib64; do mkdir -p "$root/usr/$folder"; ln -s "usr/$folder" "$root/$folder"; done
  for folder in etc home root run var/tmp tmp; do mkdir -p "$root/$folder"; done
  chmod 700 "$root/root"
  chmod 1777 "$root/tmp" "$root/var/tmp"
  printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n' >"$root/etc/group"
  printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
}

add_busybox () {
  local root=$1 applet
  cp /bin/busybox "$root/usr/bin/busybox"
  for applet in $(/bin/busybox --list); do
    [ -e "$root/usr/bin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
  done
}

# Create what the install scripts of the packages would have created.
finish () {
  local root=$1
  rm -rf "$root"/usr/share/{doc,man,info,lintian,bug,locale,python3/runtime.d} "$root/var/lib" "$root/var/cache"
  if [ -d "$root/usr/share/ca-certificates" ]; then
    mkdir -p "$root/etc/ssl/certs"
    find "$root/usr/share/ca-certificates" -name '*.crt' | sort | xargs cat >"$root/etc/ssl/certs/ca-certificates.crt"
  fi
}

make_image () {
  local name=$1 root=$WORK/$1/root deb
  rm -rf "${WORK:?}/$name"
  mkdir -p "$root"
  make_folders "$root"
  if [ -n "${PACKAGES[$name]}" ]; then
    # shellcheck disable=SC2086 # several words on purpose
    for deb in $(download ${PACKAGES[$name]}); do
      dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$root"
    done
  fi
  [ "$name" != node ] || cp -L node_modules/.bin/node "$root/usr/bin/node"
  add_busybox "$root"
  finish "$root"
  # Files that this script creates get time 0; files of packages keep their time. This makes the image
  # reproducible.
  tar -C "$root" --owner=0 --group=0 --numeric-owner --sort=name --clamp-mtime --mtime=@1700000000 -cf "$WORK/$name/root.tar" .
  rm -rf "$root"
  SOURCE_DATE_EPOCH=1700000000 services/cli/wherry build -q -t "wherry/$name:${TAGS[$name]}" -f "$HERE/$name.Dockerfile" "$WORK/$name" >"$WORK/$name/digest"
  rm -f "$WORK/$name/root.tar"
  say "wherry/$name:${TAGS[$name]} $(cat "$WORK/$name/digest")"
}

[ "$(id -u)" = 0 ] || die 'files of root are packed here; run as root'
mkdir -p "$WORK"
[ $# -gt 0 ] || set -- busybox bash node python
for name in "$@"; do
  [ -n "${TAGS[$name]:-}" ] || die "there is no base image \"$name\"; there are: ${!TAGS[*]}"
done
for name in "$@"; do make_image "$name"; done

#!/bin/bash
# Puts Debian's qemu, Debian's cloud kernel and an initramfs for the guest into build/vm. Packages are
# downloaded and unpacked, never installed. Does nothing if build/vm matches this script and the newest kernel
# that apt knows. If this machine cannot run a guest, prints the reason and exits with 77, as automake's tests
# do; any other failure is a bug.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

VM=build/vm
DEBS=$VM/debs
# Modules for the guest's disk and the host's files; the rest is built in or not needed.
MODULES=(virtio_pci virtio_blk virtiofs overlay)
NOT_HERE=77

say () { echo "vm: $*"; }
not_here () { echo "vm: $*"; exit "$NOT_HERE"; }

[ "$(uname -m)" = x86_64 ] || not_here "the guest is x86-64 and this machine is $(uname -m)"
[ "$(id -u)" = 0 ] || not_here 'needs root: the guest reads the files of this machine as root'
command -v apt-get >/dev/null || not_here 'needs apt-get to download qemu and a kernel'

kernel_package () { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1; }

download () {
  local lists=("$@")
  mkdir -p "$DEBS/partial"
  # apt-get skips installed packages; their files are used from this machine.
  apt-get install -y -q --download-only --no-install-recommends -o DPkg::Lock::Timeout=120 -o Dir::Cache::Archives="$PWD/$DEBS" \
    qemu-system-x86 qemu-system-data ipxe-qemu seabios &&
    (cd "$DEBS" && apt-get download -q "${lists[@]}")
}

# Add a module after the modules that it depends on, which is the order for insmod.
add_module () {
  local name=${1//-/_} file needed
  [ ! -e "$VM/initramfs/modules/$name.ko" ] || return 0
  file=$(find "$VM/unpacked" -path '*/modules/*' \( -name "$name.ko" -o -name "${name//_/-}.ko" \) -print -quit)
  [ -n "$file" ] || return 0 # built into this kernel
  needed=$(grep -z -a -m 1 '^depends=' "$file" | tr -d '\0')
  for other in $(tr ',' ' ' <<<"${needed#depends=}"); do add_module "$other"; done
  cp "$file" "$VM/initramfs/modules/$name.ko"
  echo "$name" >>"$VM/initramfs/modules/order"
}

build_initramfs () {
  local root=$VM/initramfs
  rm -rf "$root"
  mkdir -p "$root"/{bin,modules,proc,sys,dev,host,rw,newroot}
  cp "$(command -v busybox)" "$root/bin/busybox"
  for module in "${MODULES[@]}"; do add_module "$module"; done
  install -m 755 infra/vm/init "$root/init"
  (cd "$root" && ./bin/busybox find . | ./bin/busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$VM/initramfs.gz"
}

kernel=$(kernel_package)
if [ -z "$kernel" ]; then
  say 'fetching package lists'
  apt-get update -q >/dev/null 2>&1 || not_here 'apt-get update failed; is there a network?'
  kernel=$(kernel_package)
  [ -n "$kernel" ] || not_here 'apt knows no linux-image-cloud-amd64 here'
fi

mkdir -p "$VM"
exec 9>"$VM/prepare.lock"
flock 9
stamp="$kernel $(cat infra/vm/prepare.sh infra/vm/init | sha256sum | cut -c 1-16)"
[ "$(cat "$VM/stamp" 2>/dev/null)" != "$stamp" ] || exit 0

say "downloading qemu and $kernel (about 60 MB)"
rm -rf "$DEBS" "$VM/unpacked" "$VM/stamp"
if ! download "$kernel" >"$VM/apt.log" 2>&1; then
  apt-get update -q >>"$VM/apt.log" 2>&1 || true # old lists name packages that no longer exist
  download "$(kernel_package)" >>"$VM/apt.log" 2>&1 || { tail -n 3 "$VM/apt.log"; not_here 'qemu or the kernel cannot be downloaded'; }
fi
for package in "$DEBS"/*.deb; do dpkg -x "$package" "$VM/unpacked"; done
[ -x "$VM/unpacked/usr/lib/qemu/virtiofsd" ] || [ -x /usr/lib/qemu/virtiofsd ] || not_here "this Debian's qemu brings no virtiofsd (Debian 12's does)"
rm -rf "$DEBS"
cp "$VM"/unpacked/boot/vmlinuz-* "$VM/vmlinuz"
build_initramfs
echo "$stamp" >"$VM/stamp"
say "ready: $(basename "$(echo "$VM"/unpacked/boot/vmlinuz-*)")"

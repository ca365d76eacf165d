#!/bin/bash
# Runs a command, as root and from the project's folder, in a guest with Debian's kernel:
#   infra/vm/run.sh [-l v2|v1] [-k 'KERNEL PARAMETERS'] COMMAND [ARGUMENT...]
# The guest sees all files of this machine; its changes are discarded. Exits with the status of the command,
# with 77 if this machine cannot run a guest, or with 70 if the guest ended without a result. The guest is
# emulated: it needs no /dev/kvm and is 30 to 50 times slower.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

VM=$PWD/build/vm
RUN=$VM/run
UNPACKED=$VM/unpacked
MEMORY_MIB=2048
DISK_SIZE=4G
TIME_LIMIT_S=${WHERRY_VM_LIMIT_S:-1200}
SOCKET_WAIT_S=10
NO_ANSWER=70

layout=v2
kernel=''
while getopts l:k: option; do
  case $option in
    l) layout=$OPTARG ;;
    k) kernel=$OPTARG ;;
    *) exit 64 ;;
  esac
done
shift $((OPTIND - 1))
[ "$#" -gt 0 ] || { echo 'vm: no command given' >&2; exit 64; }
case $layout in
  v2) kernel+=' cgroup_no_v1=all' ;;
  v1) ;;
  *) echo "vm: unknown cgroup layout \"$layout\" (v2 or v1)" >&2; exit 64 ;;
esac

infra/vm/prepare.sh
# One guest at a time. The kernel releases the lock when this shell exits, even after kill -9.
exec 8>"$VM/run.lock"
flock -n 8 || { echo 'vm: waiting for another guest of this checkout'; flock 8; }

pids=()
cleanup () {
  trap '' INT TERM HUP
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$RUN"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

rm -rf "$RUN"
mkdir -p "$RUN"
truncate -s "$DISK_SIZE" "$RUN/disk"
mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 "$RUN/disk"
: >"$RUN/console"
{
  printf 'cd %q\n' "$PWD"
  printf 'export CI=%q LAYOUT=%q\n' "${CI:-}" "$layout"
  printf 'source infra/vm/guest.sh'
  printf ' %q' "$@"
  echo
} >"$RUN/job"

library_path=$UNPACKED/usr/lib/x86_64-linux-gnu:$UNPACKED/lib/x86_64-linux-gnu
virtiofsd=$UNPACKED/usr/lib/qemu/virtiofsd
[ -x "$virtiofsd" ] || virtiofsd=/usr/lib/qemu/virtiofsd
qemu=$UNPACKED/usr/bin/qemu-system-x86_64
[ -x "$qemu" ] || qemu=/usr/bin/qemu-system-x86_64
firmware=()
for directory in "$UNPACKED"/usr/{share/qemu,share/seabios,lib/ipxe/qemu} /usr/{share/qemu,share/seabios,lib/ipxe/qemu}; do
  [ ! -d "$directory" ] || firmware+=(-L "$directory")
done
# The kernel kills them when this shell dies.
bound=(setpriv --pdeathsig KILL)

"${bound[@]}" env LD_LIBRARY_PATH="$library_path" "$virtiofsd" --socket-path="$RUN/fs.sock" -o source=/ -o sandbox=chroot \
  -o cache=always -o log_level=err -o modcaps=+sys_admin >"$RUN/virtiofsd.log" 2>&1 8>&- &
pids+=($!)
for ((i = 0; i < SOCKET_WAIT_S * 20; i++)); do
  [ ! -S "$RUN/fs.sock" ] || break
  sleep 0.05
done
[ -S "$RUN/fs.sock" ] || { cat "$RUN/virtiofsd.log" >&2; echo 'vm: virtiofsd did not start' >&2; exit "$NO_ANSWER"; }

"${bound[@]}" timeout --foreground -k 5 "$TIME_LIMIT_S" "${bound[@]}" env LD_LIBRARY_PATH="$library_path" "$qemu" "${firmware[@]}" \
  -M q35 -accel tcg,thread=multi -cpu qemu64 -smp 2 -m "$MEMORY_MIB" -display none -monitor none -no-reboot -net none \
  -object memory-backend-memfd,id=memory,size="${MEMORY_MIB}M",share=on -numa node,memdev=memory \
  -chardev socket,id=fs,path="$RUN/fs.sock" -device vhost-user-fs-pci,chardev=fs,tag=host \
  -drive file="$RUN/disk",if=virtio,format=raw,cache=unsafe -serial file:"$RUN/console" \
  -kernel "$VM/vmlinuz" -initrd "$VM/initramfs.gz" \
  -append "console=ttyS0 panic=-1 loglevel=1 mitigations=off random.trust_cpu=1 layout=$layout job=$RUN/job $kernel" </dev/null 8>&- &
guest=$!
pids+=("$guest")
"${bound[@]}" tail -q -n +1 -s 0.3 -f --pid="$guest" "$RUN/console" 2>/dev/null 8>&- > >(exec sed -u -e 's/\r$//' -e '/^vm: exit /Q') &
reader=$!
pids+=("$reader")

ended=0
wait "$guest" || ended=$?
wait "$reader" || true
status=$(sed -n 's/^vm: exit \([0-9]*\)\r*$/\1/p' "$RUN/console" | tail -n 1)
[ -z "$status" ] || exit "$status"
[ "$ended" != 124 ] || echo "vm: stopped after $TIME_LIMIT_S s" >&2
echo 'vm: the guest ended without a result' >&2
exit "$NO_ANSWER"

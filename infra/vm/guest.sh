# Sourced by the job that run.sh writes, as the guest's first process: runs the command that it is given
# and switches the guest off.  The command lives in a cgroup that is not the root of the hierarchy,
# as it would under any service manager: the root is exempt from rules that all others have to keep.

export PATH=$PWD/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=dumb TMPDIR=/disk/tmp NODE_COMPILE_CACHE=$PWD/build/compile-cache
# Everything here is that many times slower than on a machine of its own.
export WHERRY_TEST_SLOWNESS=20
mkdir -m 1777 "$TMPDIR"
# t.testdir() is below the project; image layers need a file system that keeps extended attributes.
mkdir -p /disk/tap .tap
mount --bind /disk/tap .tap

if [ "$LAYOUT" = v2 ]; then
  for controller in cpu memory pids; do echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control; done
  units=(/sys/fs/cgroup/unit)
else
  for h in /sys/fs/cgroup/*; do units+=("$h/unit"); done
fi
(
  for unit in "${units[@]}"; do
    mkdir "$unit"
    echo 0 >"$unit/cgroup.procs"
  done
  exec "$@"
)
echo "vm: exit $?"
sync
echo o >/proc/sysrq-trigger
sleep infinity

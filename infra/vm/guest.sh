# Process 1 of the guest; the job that run.sh writes sources this file. It runs the given command and powers
# the guest off. The command runs in a cgroup below the root of the hierarchy, as it would under any service
# manager, because the root cgroup is exempt from some rules.

export PATH=$PWD/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=dumb TMPDIR=/disk/tmp NODE_COMPILE_CACHE=$PWD/build/compile-cache
# Emulation slows everything down by about this factor.
export WHERRY_TEST_SLOWNESS=20
mkdir -m 1777 "$TMPDIR"
# t.testdir() is in the project folder, and image layers need a file system with extended attributes.
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

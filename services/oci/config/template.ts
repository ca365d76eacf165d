// The template that `spec` writes and the report that `features` prints (OCI runtime spec, features.md).

import { HOOK_NAMES, SECCOMP_ACTIONS, SECCOMP_OPERATORS, SPEC_VERSION } from '../../contract/bundle-spec.ts'
import { CAPABILITIES } from '../../runtime/capability.ts'
import { MOUNT_OPTIONS } from '../../runtime/bundle/mount-options.ts'
import { SECCOMP_ARCHITECTURES, SECCOMP_FLAGS } from '../../runtime/bundle/seccomp.ts'
import { MASKED_PATHS, READONLY_PATHS } from '../../runtime/spec.ts'

const NAMESPACES = ['pid', 'network', 'ipc', 'uts', 'mount', 'cgroup'] as const
const KEPT_CAPABILITIES = ['CAP_AUDIT_WRITE', 'CAP_KILL', 'CAP_NET_BIND_SERVICE']

/** A shell in ./rootfs without access to the host. */
export function specTemplate(): object {
  return {
    ociVersion: SPEC_VERSION,
    process: {
      terminal: true,
      user: { uid: 0, gid: 0 },
      args: ['sh'],
      env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'TERM=xterm'],
      cwd: '/',
      capabilities: {
        bounding: KEPT_CAPABILITIES,
        effective: KEPT_CAPABILITIES,
        permitted: KEPT_CAPABILITIES,
      },
      rlimits: [{ type: 'RLIMIT_NOFILE', hard: 1024, soft: 1024 }],
      noNewPrivileges: true,
    },
    root: { path: 'rootfs', readonly: true },
    hostname: 'wherry',
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      {
        destination: '/dev',
        type: 'tmpfs',
        source: 'tmpfs',
        options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
      },
      {
        destination: '/dev/pts',
        type: 'devpts',
        source: 'devpts',
        options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
      },
      {
        destination: '/dev/shm',
        type: 'tmpfs',
        source: 'shm',
        options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'],
      },
      {
        destination: '/dev/mqueue',
        type: 'mqueue',
        source: 'mqueue',
        options: ['nosuid', 'noexec', 'nodev'],
      },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
      {
        destination: '/sys/fs/cgroup',
        type: 'cgroup',
        source: 'cgroup',
        options: ['nosuid', 'noexec', 'nodev', 'relatime', 'ro'],
      },
    ],
    linux: {
      resources: { devices: [{ allow: false, access: 'rwm' }] },
      namespaces: NAMESPACES.map((type) => ({ type })),
      maskedPaths: [...MASKED_PATHS, '/sys/firmware'],
      readonlyPaths: READONLY_PATHS,
    },
  }
}

export function featureReport(): object {
  return {
    ociVersionMin: '1.0.0',
    ociVersionMax: SPEC_VERSION,
    hooks: HOOK_NAMES,
    mountOptions: MOUNT_OPTIONS,
    linux: {
      namespaces: [...NAMESPACES, 'time', 'user'].sort(),
      capabilities: CAPABILITIES,
      cgroup: { v1: true, v2: true, systemd: false, systemdUser: false, rdma: true },
      seccomp: {
        enabled: true,
        actions: SECCOMP_ACTIONS,
        operators: SECCOMP_OPERATORS,
        archs: SECCOMP_ARCHITECTURES,
        knownFlags: SECCOMP_FLAGS,
        supportedFlags: SECCOMP_FLAGS,
      },
      apparmor: { enabled: true },
      selinux: { enabled: false },
      intelRdt: { enabled: false, schemata: false, monitoring: false },
      memoryPolicy: { modes: [], flags: [] },
      mountExtensions: { idmap: { enabled: true } },
      netDevices: { enabled: false },
    },
  }
}

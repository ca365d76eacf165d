// Features of config.json and runc's command line that engines use rarely: changed limits, statistics, joined
// mount namespaces, clocks, id-mapped mounts, schedulers, timeouts of hooks.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startTimeOf } from '../../services/platform/process-identity.ts'
import {
  bundleFor,
  containerName,
  needsBundle,
  WHERRY_OCI,
  type BundleRig,
  type Config,
} from '../helpers/bundle.ts'
import { NATIVE_DIR, SLOWNESS } from '../helpers/container.ts'

const skip = needsBundle || (SLOWNESS > 1 && 'emulated: too slow for this many commands')
const V1 = existsSync('/sys/fs/cgroup/memory')
const MAPS = [{ containerID: 0, hostID: 100_000, size: 65_536 }]
const without =
  (type: string) =>
  (config: Config): void => {
    config.linux.namespaces = config.linux.namespaces.filter((n: { type: string }) => n.type !== type)
  }
const mountsAt = (path: string): number =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.split(' ')[4] === path).length

/** Start a long-running container. Returns its id. */
function started(t: Test, rig: BundleRig, script: string, change?: (config: Config) => void): string {
  const id = containerName(t)
  rig.config(script, change)
  t.match(rig.oci(['run', '--detach', id], { quiet: true }), { code: 0 })
  t.teardown(() => rig.oci(['delete', '--force', id]))
  return id
}

t.test('limits of a running container', { skip }, async (t) => {
  const rig = bundleFor(t)
  const id = started(t, rig, 'exec sleep 1000', (config) => {
    config.linux.resources.memory = { limit: 64 << 20, swap: 64 << 20 }
  })
  const files = V1
    ? [
        'memory/memory.limit_in_bytes',
        'memory/memory.memsw.limit_in_bytes',
        'pids/pids.max',
        'cpu/cpu.shares',
      ]
    : ['memory.max', 'memory.swap.max', 'pids.max', 'cpu.weight']
  const limits = (): string[] =>
    rig
      .oci(['exec', id, 'sh', '-c', `cd /sys/fs/cgroup; cat ${files.join(' ')}`])
      .stdout.trim()
      .split('\n')
  const both = (memory: number, swap: number): string[] => [
    String(memory << 20),
    String((V1 ? memory + swap : swap) << 20),
  ]

  t.test('increase and decrease by options', async (t) => {
    t.match(
      rig.oci([
        'update',
        '--memory',
        '128m',
        '--memory-swap',
        '256m',
        '--pids-limit',
        '33',
        '--cpu-share',
        '512',
        id,
      ]),
      { code: 0, stderr: '' },
    )
    t.same(limits(), [...both(128, 128), '33', V1 ? '512' : '20'])
    t.match(rig.oci(['update', '--memory', '32m', '--memory-swap', '48m', id]), { code: 0, stderr: '' })
    t.same(limits().slice(0, 3), [...both(32, 16), '33'], 'what is not named stays')
  })
  t.test('change by a JSON document', async (t) => {
    t.match(
      rig.oci(['update', '--resources', '-', id], {
        input: '{"memory":{"limit":41943040},"pids":{"limit":-1}}',
      }),
      { code: 0, stderr: '' },
    )
    t.same(
      limits()
        .slice(0, 3)
        .filter((_, i) => i !== 1),
      [String(40 << 20), 'max'],
    )
  })
  t.test('that are impossible are named and change nothing', async (t) => {
    for (const [args, input, why] of [
      [['--memory', 'x'], '', /--memory x is not a size/],
      [[], '', /no limit to change/],
      [['--memory', '512m', '--memory-swap', '64m'], '', /memory\.swap: 67108864 is below memory\.limit/],
      [
        ['--resources', '-'],
        '{"cpu":{"shares":"x"},"memory":3}',
        /cpu\.shares: "x" is not.*|memory: 3 is not an object/,
      ],
      [['--resources', '-'], '{', /resources: is not JSON/],
      [
        ['--resources', '-'],
        '{"memory":{"limit":4096,"checkBeforeUpdate":true}}',
        /memory\.limit: 4096 is below the \d+ bytes that are used now/,
      ],
      ...(V1
        ? [
            [
              ['--memory', '1g'],
              '',
              /memory\.limit: 1073741824 is above \d+, the limit of memory and swap together/,
            ] as const,
          ]
        : []),
    ] as const)
      t.match(rig.oci(['update', ...args, id], { input }), { code: 1, stderr: why }, String(why))
    t.equal(limits()[0], String(40 << 20))
    t.match(rig.oci(['update', '--memory', '1g', 'nobody']), { code: 1, stderr: /does not exist/ })
  })
  t.test('have usage statistics in runc’s format', async (t) => {
    const { type, id: told, data } = JSON.parse(rig.oci(['events', '--stats', id]).stdout)
    t.match({ type, told }, { type: 'stats', told: id })
    t.ok(data.cpu.usage.total > 0 && data.memory.usage.usage > 0)
    t.match(data, { memory: { usage: { limit: 40 << 20 } }, pids: { current: 1 } })
    t.match(rig.oci(['events', '--interval', 'often', id]), {
      code: 1,
      stderr: /--interval often is not a duration/,
    })
  })
  t.test('events end with the container and report out-of-memory kills', async (t) => {
    const hungry = started(t, rig, 'read line <>/tmp/go; x=a; while :; do x=$x$x; done', (config) => {
      spawnSync('mkfifo', [join(rig.rootfs, 'tmp/go')])
      config.linux.resources.memory = { limit: 8 << 20, swap: 8 << 20 }
    })
    const events = spawn(
      process.execPath,
      [
        ...process.execArgv,
        join(import.meta.dirname, '../../services/oci/main.ts'),
        '--root',
        join(rig.directory, 'state'),
        'events',
        '--interval',
        '100ms',
        hungry,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    let said = ''
    events.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text
    })
    await once(events.stdout, 'data')
    rig.oci(['exec', hungry, 'sh', '-c', 'echo now >/tmp/go'])
    await once(events, 'close')
    t.ok(
      said
        .trim()
        .split('\n')
        .some((line) => JSON.parse(line).type === 'oom'),
      said.slice(-1000),
    )
  })
})

t.test('a mount namespace that the container does not own', { skip }, async (t) => {
  const rig = bundleFor(t)
  t.test('is the runtime’s by default; nothing stays mounted', async (t) => {
    const id = started(t, rig, 'exec sleep 1000', without('mount'))
    const { pid } = JSON.parse(rig.oci(['state', id]).stdout)
    t.equal(readlinkSync(`/proc/${pid}/ns/mnt`), readlinkSync('/proc/self/ns/mnt'))
    t.equal(mountsAt(rig.rootfs), 1)
    t.match(
      rig.oci(['exec', id, 'sh', '-c', 'ls /; cat /proc/1/comm']),
      { code: 0, stdout: 'bin\ndev\netc\nproc\nsys\ntmp\nsleep\n' },
      'exec has the same root',
    )
    t.equal(rig.oci(['delete', '--force', id]).code, 0)
    t.equal(mountsAt(rig.rootfs), 0)
    t.match(
      rig.run('echo ran', (config) => {
        without('mount')(config)
        config.process.args = ['/none']
      }),
      { code: 1 },
    )
    t.equal(mountsAt(rig.rootfs), 0, 'nor when creating fails')
  })
  t.test('is joined by path; the host’s is rejected', async (t) => {
    const holder = spawn('unshare', ['--mount', 'sh', '-c', 'echo there; exec sleep 1000'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    t.teardown(() => {
      holder.kill('SIGKILL')
    })
    await once(holder.stdout, 'data')
    const path =
      (pid: number | 'self') =>
      (config: Config): void => {
        config.linux.namespaces.find((n: { type: string }) => n.type === 'mount').path = `/proc/${pid}/ns/mnt`
      }
    t.match(rig.run('readlink /proc/self/ns/mnt; ls /', path(holder.pid!)), {
      code: 0,
      stdout: `${readlinkSync(`/proc/${holder.pid}/ns/mnt`)}\nbin\n`,
    })
    t.match(
      rig.run('true', (config) => {
        path('self')(config)
        config.linux.namespaces.find((n: { type: string }) => n.type === 'mount').path =
          `/proc/${process.pid}/ns/mnt`
      }),
      { code: 1, stderr: /linux\.namespaces\[4\]\.path: is the host’s mount namespace/ },
    )
  })
})

t.test('other features of config.json', { skip }, async (t) => {
  const rig = bundleFor(t)
  t.test('a time namespace has its own clocks, also for exec', async (t) => {
    const change = (config: Config): void => {
      config.linux.namespaces.push({ type: 'time' })
      config.linux.timeOffsets = {
        boottime: { secs: 10_000_000 },
        monotonic: { secs: 20_000_000, nanosecs: 5 },
      }
    }
    const id = started(t, rig, 'exec sleep 1000', change)
    t.ok(Number.parseFloat(rig.oci(['exec', id, 'cat', '/proc/uptime']).stdout) > 10_000_000)
    t.match(rig.run('cat /proc/self/timens_offsets', change), {
      stdout: /monotonic +20000000 +5\nboottime +10000000 +0\n/,
    })
    const { pid } = JSON.parse(rig.oci(['state', id]).stdout)
    t.match(
      rig.run('cat /proc/self/timens_offsets', (config) => {
        config.linux.namespaces.push({ type: 'time', path: `/proc/${pid}/ns/time` })
      }),
      { stdout: /monotonic +20000000 / },
      'joined by path',
    )
    t.match(
      rig.run('cat /proc/self/timens_offsets; id -u', (config) => {
        change(config)
        config.linux.namespaces.push({ type: 'user' })
        Object.assign(config.linux, { uidMappings: MAPS, gidMappings: MAPS })
      }),
      { code: 0, stdout: /boottime +10000000 / },
      'in a user namespace',
    )
  })
  t.test('mounts map ids by their own map or the container’s', async (t) => {
    const directory = join(rig.directory, 'owned')
    mkdirSync(directory)
    writeFileSync(join(directory, 'file'), '')
    chownSync(join(directory, 'file'), 7, 8)
    const own = [{ containerID: 7, hostID: 1007, size: 2 }]
    const mount = (more: object) => ({
      destination: '/owned',
      type: 'bind',
      source: directory,
      options: ['bind'],
      ...more,
    })
    const ended = rig.run('ls -ln /owned/file', (config) => {
      config.mounts.push(mount({ uidMappings: own, gidMappings: own }))
    })
    if (/EINVAL|EOPNOTSUPP/.test(ended.stderr))
      return t.comment('SKIP this file system has no id-mapped mounts')
    t.match(ended, { code: 0, stdout: / 1007 +1008 / })
    t.match(
      rig.run('ls -ln /owned/file', (config) => {
        config.mounts.push(mount({ options: ['rbind', 'ridmap'] }))
        config.linux.namespaces.push({ type: 'user' })
        Object.assign(config.linux, { uidMappings: MAPS, gidMappings: MAPS })
      }),
      { code: 0, stdout: / 7 +8 / },
    )
  })
  t.test('mounts are in the order of config.json', async (t) => {
    const { stdout } = rig.run('cat /proc/self/mountinfo', (config) => {
      for (const name of ['c', 'a', 'b']) {
        config.mounts.push(
          { destination: `/tmp/${name}`, type: 'tmpfs', source: 'tmpfs' },
          { destination: `/tmp/${name}/etc`, source: '/etc', options: ['bind', 'ro'] },
        )
      }
      config.root.readonly = false
    })
    t.same(
      stdout
        .split('\n')
        .map((line) => line.split(' ')[4])
        .filter((path) => path?.startsWith('/tmp/')),
      ['c', 'a', 'b'].flatMap((name) => [`/tmp/${name}`, `/tmp/${name}/etc`]),
    )
  })
  t.test('scheduler and I/O priority', async (t) => {
    const ended = rig.run('cat /proc/self/stat; busybox ionice -p 1', (config) => {
      Object.assign(config.process, {
        scheduler: { policy: 'SCHED_BATCH', nice: 7 },
        ioPriority: { class: 'IOPRIO_CLASS_BE', priority: 6 },
      })
    })
    const fields = ended.stdout.split('\n')[0]!.split(') ')[1]!.split(' ')
    t.same([fields[16], fields[38]], ['7', '3'], 'nice and policy, proc(5)')
    t.match(ended.stdout, /best-effort: prio 6/)
  })
  t.test('leaves out capabilities that the kernel would not grant, with a warning', async (t) => {
    t.match(
      rig.run('grep CapAmb /proc/self/status', (config) => {
        config.process.capabilities.ambient = ['CAP_KILL']
      }),
      {
        code: 0,
        stdout: 'CapAmb:\t0000000000000000\n',
        stderr: /ambient: left out: CAP_KILL; the kernel grants only capabilities that are inheritable/,
      },
    )
  })
  t.test('a hundred mounts, masks and devices', async (t) => {
    const names = Array.from({ length: 100 }, (_, i) => `/tmp/${i}`)
    const tmpfs = { destination: '/tmp', type: 'tmpfs', source: 'tmpfs' }
    t.match(
      rig.run('ls /tmp | wc -l; ls /dev | wc -l', (config) => {
        config.mounts.push(
          tmpfs,
          ...names.map((name) => ({ destination: name, source: '/etc', options: ['bind', 'ro'] })),
        )
        config.linux.maskedPaths = names
        config.linux.devices = names.map((_, i) => ({ path: `/dev/n${i}`, type: 'c', major: 1, minor: 3 }))
      }),
      { code: 0, stdout: /^100\n1\d\d\n$/ },
    )
  })
})

t.test('hooks', { skip }, async (t) => {
  const rig = bundleFor(t)
  const hook = (script: string, more: object = {}) => ({
    path: '/bin/sh',
    args: ['sh', '-c', script],
    ...more,
  })
  const output = (): string => readFileSync(join(rig.directory, 'output'), 'utf8')
  t.test('are killed after their timeout', async (t) => {
    for (const kind of ['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart']) {
      t.match(
        rig.run('exec sleep 1000', (config) => {
          config.hooks = { [kind]: [{ path: '/bin/sleep', args: ['sleep', '1000'], timeout: 1 }] }
        }),
        { code: 1, stdout: '', stderr: /ETIMEDOUT|killed after 1 s/ },
        kind,
      )
    }
    t.match(
      rig.run('echo ran', (config) => {
        config.hooks = { poststop: [{ path: '/bin/sleep', args: ['sleep', '1000'], timeout: 1 }] }
      }),
      { code: 0, stdout: 'ran\n', stderr: /warning: .*killed after 1 s/ },
      'poststop only warns',
    )
  })
  t.test('of poststop run on after one that fails', async (t) => {
    t.match(
      rig.run('echo ran', (config) => {
        config.hooks = { poststop: [hook('exit 3'), hook('echo second >output')] }
      }),
      { code: 0, stderr: /warning: hooks\.poststop\[0\].*exit code 3/ },
    )
    t.equal(output(), 'second\n')
  })
  t.test('of poststart only warn where config.json is older than 1.3', async (t) => {
    t.match(
      rig.run('echo ran', (config) => {
        config.ociVersion = '1.2.1'
        config.hooks = { poststart: [hook('exit 3'), hook('echo second >output')] }
      }),
      { code: 0, stdout: 'ran\n', stderr: /warning: hooks\.poststart\[0\].*exit code 3/ },
    )
    t.equal(output(), 'second\n')
  })
  t.test('have the environment that they declare, else the runtime’s, and may write to stdout', async (t) => {
    const print = 'echo $PATH/$A >>output; head -c 3000000 /dev/zero'
    t.match(
      rig.run('echo ran', (config) => {
        config.hooks = { createRuntime: [hook(print), hook(print, { env: ['PATH=/bin', 'A=b'] })] }
      }),
      { code: 0, stdout: 'ran\n', stderr: '' },
    )
    t.equal(output(), `second\n${process.env.PATH}/\n/bin/b\n`)
    t.match(
      rig.run('echo ran', (config) => {
        config.hooks = { createRuntime: [hook('head -c 3000000 /dev/zero >&2')] }
      }),
      { code: 1, stderr: /wrote more than \d+ bytes to stderr/ },
    )
  })
})

t.test('the container does not inherit from the caller', { skip }, async (t) => {
  const rig = bundleFor(t)
  const before = process.umask(0o77)
  t.teardown(() => {
    process.umask(before)
  })
  t.match(
    rig.run('umask; ls -ld /new /new/place', (config) => {
      config.process.cwd = '/new/place'
    }),
    { code: 0, stdout: /^0022\n/ },
    'its umask; and the working directory is created even in a read-only root',
  )
})

t.test('links of an image', { skip }, async (t) => {
  const rig = bundleFor(t)
  mkdirSync(join(rig.rootfs, 'data/inner'), { recursive: true })
  writeFileSync(join(rig.rootfs, 'data/file'), 'data\n')
  for (const [name, target] of [
    ['folder', '/data/inner'],
    ['file', 'data/file'],
    ['nowhere', '/not/there'],
    ['out', '../../not/here'],
    ['magic', '/proc/self/root/data'],
  ] as const)
    symlinkSync(target, join(rig.rootfs, name))
  const writable = (config: Config): void => {
    config.root.readonly = false
  }
  const bind = (source: string, destination: string) => ({
    destination,
    type: 'bind',
    source,
    options: ['bind'],
  })
  t.test('that are dangling become mount points inside the root', async (t) => {
    t.match(
      rig.run('cat /not/there/hosts /not/here', (config) => {
        writable(config)
        config.mounts.push(bind('/etc', '/nowhere'), bind(join(rig.rootfs, 'data/file'), '/out'))
      }),
      { code: 0, stdout: /localhost[^]*data\n/ },
    )
    t.notOk(existsSync('/not'))
  })
  t.test('are followed to read-only paths, except magic links', async (t) => {
    t.match(
      rig.run(
        'for path in /data/inner/x /data/file /data/x; do echo >$path && echo $path; done 2>/dev/null; true',
        (config) => {
          writable(config)
          config.linux.readonlyPaths = ['/folder', '/file', '/nowhere', '/none']
        },
      ),
      { code: 0, stdout: '/data/x\n' },
    )
    t.match(
      rig.run('true', (config) => {
        config.linux.readonlyPaths = ['/magic']
      }),
      { code: 1, stderr: /bind \/magic: openat2: ELOOP/ },
    )
  })
  t.test('a tmpfs has the mode of the folder it covers, or a given one', async (t) => {
    chmodSync(join(rig.rootfs, 'data/inner'), 0o710)
    t.match(
      rig.run('ls -ld /data/inner /tmp/new; ls -ld /etc | cut -c 1-10', (config) => {
        writable(config)
        config.mounts.push(
          { destination: '/data/inner', type: 'tmpfs', source: 'tmpfs' },
          { destination: '/tmp/new', type: 'tmpfs', source: 'tmpfs' },
          { destination: '/etc', type: 'tmpfs', source: 'tmpfs', options: ['mode=0701'] },
        )
      }),
      { code: 0, stdout: /^drwx--x---.*\ndrwxrwxrwt.*\ndrwx-----x\n$/ },
    )
  })
  t.test('that conflict with a mount are named', async (t) => {
    t.match(
      rig.run('true', (config) => {
        config.mounts.push(bind('/etc/hosts', '/data'))
      }),
      { code: 1, stderr: /attach \/data: a file over a directory: ENOTDIR/ },
    )
    t.match(
      rig.run('true', (config) => {
        config.mounts.push(bind('/etc', '/data/file'))
      }),
      { code: 1, stderr: /attach \/data\/file: a directory over a file: ENOTDIR/ },
    )
  })
})

/** A listening seccomp agent for COUNT processes: its socket, and its output once it has exited. */
async function startAgent(
  t: Test,
  rig: BundleRig,
  count: number,
): Promise<{ path: string; output: Promise<string> }> {
  const path = join(rig.directory, `agent-${count}.sock`)
  const agent = spawn(join(NATIVE_DIR, 'probe'), ['agent', path, String(count)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => {
    agent.kill('SIGKILL')
  })
  let text = ''
  agent.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
  })
  const output = once(agent, 'close').then(() => text)
  await once(agent.stdout, 'data')
  return { path, output }
}

t.test('a seccomp agent', { skip }, async (t) => {
  const rig = bundleFor(t)
  const decidedBy =
    (path: string, names: readonly string[], more: object = {}) =>
    (config: Config): void => {
      Object.assign(config.process, { user: { uid: 7, gid: 7 }, noNewPrivileges: false })
      config.linux.seccomp = {
        defaultAction: 'SCMP_ACT_ALLOW',
        listenerPath: path,
        listenerMetadata: 'a word',
        syscalls: [{ names, action: 'SCMP_ACT_NOTIFY' }],
        ...more,
      }
    }
  t.test('decides on calls of a container and of exec', async (t) => {
    const { path, output } = await startAgent(t, rig, 2)
    const id = started(t, rig, 'exec sleep 1000', decidedBy(path, ['mkdir', 'mkdirat']))
    t.match(rig.oci(['exec', id, 'mkdir', '/dev/shm/x']), { code: 1, stderr: /No message of desired type/ })
    t.equal(rig.oci(['delete', '--force', id]).code, 0)
    const [first, second] = (await output)
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line))
    t.match(first, {
      ociVersion: /^1\./,
      fds: ['seccompFd'],
      metadata: 'a word',
      state: { id, status: 'created', bundle: rig.directory },
    })
    t.equal(first.pid, first.state.pid)
    t.match(second, {
      fds: ['seccompFd'],
      metadata: 'a word',
      state: { id, status: 'running', pid: first.pid },
    })
    t.not(second.pid, first.pid)
  })
  t.test('gets the listener before a call waits for it', async (t) => {
    const { path, output } = await startAgent(t, rig, 1)
    const calls = [
      'sendmsg',
      'sendto',
      'write',
      'close',
      'futex',
      'execve',
      'setgroups',
      'setresuid',
      'setresgid',
      'capget',
      'capset',
      'prctl',
      'umask',
      'mkdir',
      'mkdirat',
    ]
    t.match(
      rig.run(
        'mkdir /dev/shm/x; echo done',
        decidedBy(path, calls, { flags: ['SECCOMP_FILTER_FLAG_TSYNC'] }),
      ),
      { code: 0, stdout: 'done\n', stderr: /No message of desired type/ },
    )
    t.match(await output, /"a word".*\n(?:call \d+\n){10,}$/)
  })
  t.test('that is missing is named', async (t) => {
    t.match(rig.run('true', decidedBy(join(rig.directory, 'none.sock'), ['mkdir'])), {
      code: 1,
      stderr: /linux\.seccomp\.listenerPath: no agent listens at .*none\.sock" \(ENOENT\)/,
    })
    t.match(
      rig.run('echo ran', decidedBy(join(rig.directory, 'none.sock'), [], { syscalls: [] })),
      { code: 0, stdout: 'ran\n' },
      'but only if the profile needs an agent',
    )
  })
})

t.test('passes on sockets of systemd', { skip }, async (t) => {
  const rig = bundleFor(t)
  writeFileSync(join(rig.directory, 'socket'), 'socket\n')
  rig.config('echo $LISTEN_FDS $LISTEN_PID; cat <&3; ls /proc/1/fd | wc -l')
  const run = (pid: string): string =>
    spawnSync(
      'sh',
      [
        '-c',
        `LISTEN_FDS=1 LISTEN_PID=${pid} exec "$@" 3<socket`,
        'sh',
        WHERRY_OCI,
        '--root',
        join(rig.directory, 'state'),
        'run',
        containerName(t),
      ],
      { cwd: rig.directory, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
    ).stdout
  t.match(run('$$'), /^1 1\nsocket\n/)
  t.notMatch(run('1'), /1 1|socket/, 'unless they are meant for another process')
})

t.test('HOME defaults to that of /etc/passwd', { skip }, async (t) => {
  const rig = bundleFor(t)
  const passwd = join(rig.rootfs, 'etc/passwd')
  const homeOf = (uid: number, env: readonly string[] = []): string =>
    rig.run('echo $HOME', (config) => {
      config.process.env.push(...env)
      config.process.user = { uid, gid: 0 }
    }).stdout
  t.equal(homeOf(0), '/\n', 'no such file')
  writeFileSync(
    passwd,
    'root:x:0:0:root:/root:/bin/sh\n\nshort:x:5\nodd:x:5x:0::/odd:\nuser:x:5:5:::/sh\nuser:x:6:5::/home/user:/bin/sh\nagain:x:6:5::/other:\nlast:x:8:8::/last',
  )
  t.same(
    [0, 5, 6, 7, 8].map((uid) => homeOf(uid)),
    ['/root\n', '/\n', '/home/user\n', '/\n', '/last\n'],
  )
  t.equal(homeOf(6, ['HOME=/mine']), '/mine\n')
  t.equal(homeOf(6, ['HOME=']), '/home/user\n')
  rmSync(passwd)
  symlinkSync('/proc/self/fd/0', passwd)
  t.equal(homeOf(6), '/\n', 'no magic link is followed')
  rmSync(passwd)
  spawnSync('mkfifo', [passwd])
  t.equal(homeOf(6), '/\n', 'nor is a pipe waited for')
})

t.test('rlimits of the program do not apply to its start', { skip }, async (t) => {
  const rig = bundleFor(t)
  const names = ['RLIMIT_NOFILE', 'RLIMIT_FSIZE', 'RLIMIT_NPROC', 'RLIMIT_CORE']
  t.match(
    rig.run('ulimit -n; ulimit -f; ulimit -c', (config) => {
      config.process.rlimits = names.map((type) => ({ type, soft: 4, hard: 7 }))
      config.linux.maskedPaths = Array.from({ length: 20 }, (_, i) => `/tmp/${i}`)
    }),
    { code: 0, stdout: /^4\n/, stderr: '' },
  )
})

t.test(
  'a command that cannot be executed: not found in PATH, permission denied by path',
  { skip },
  async (t) => {
    const rig = bundleFor(t)
    writeFileSync(join(rig.rootfs, 'bin/plain'), '', { mode: 0o644 })
    const run = (name: string) =>
      rig.run('', (config) => {
        config.process.args = [name]
      })
    t.match(run('plain'), { code: 1, stderr: /exec: "plain": executable file not found in \$PATH/ })
    t.match(run('/bin/plain'), { code: 1, stderr: /exec: "\/bin\/plain": permission denied/ })
  },
)

t.test('deletes a container with a damaged folder', { skip }, async (t) => {
  const rig = bundleFor(t)
  const id = containerName(t)
  const file = (name: string): string => join(rig.directory, 'state', id, name)
  const damages: ReadonlyArray<[string, () => void]> = [
    [
      'a damaged record',
      () => {
        writeFileSync(file('state.json'), '{}')
      },
    ],
    [
      'no record',
      () => {
        rmSync(file('state.json'))
      },
    ],
    [
      'no config',
      () => {
        rmSync(file('config.json'))
      },
    ],
  ]
  for (const [what, damage] of damages) {
    rig.config('exec sleep 1000')
    t.match(rig.oci(['run', '--detach', id], { quiet: true }), { code: 0 })
    const { pid } = JSON.parse(rig.oci(['state', id]).stdout)
    damage()
    t.match(rig.oci(['delete', '--force', id]), { code: 0 }, what)
    t.equal(startTimeOf(pid), undefined, 'its process is gone')
    t.same(globSync(`/sys/fs/cgroup/**/${id}`), [], 'no cgroup is left')
    t.notOk(existsSync(file('.')))
  }
})

t.test('what this host does not support is named', { skip }, async (t) => {
  const rig = bundleFor(t)
  const little = rig.run('true', (config) => {
    config.linux.resources.memory = { limit: 4096 }
  })
  t.match(
    little,
    { code: 1, stderr: /memory|killed/ },
    'too little memory for a start kills the container, not the command',
  )
  const joins =
    (type: string, path: string) =>
    (config: Config): void => {
      config.linux.namespaces.find((n: { type: string }) => n.type === type).path = path
    }
  t.match(rig.run('true', joins('network', '/nowhere')), {
    code: 1,
    stderr: /linux\.namespaces\[1\]\.path: "\/nowhere" cannot be opened \(ENOENT\)/,
  })
  t.match(rig.run('true', joins('network', '/proc/self/ns/uts')), {
    code: 1,
    stderr: /linux\.namespaces\[1\]\.path: "\/proc\/self\/ns\/uts" is not a network namespace/,
  })
  t.match(rig.run('true', joins('network', '/etc/passwd')), { code: 1, stderr: /is not a network namespace/ })
  t.match(
    rig.run('true', (config) => {
      config.linux.cgroupsPath =
        '/' +
        readFileSync('/proc/self/cgroup', 'utf8')
          .split('\n')
          .map((line) => line.split(':')[2] ?? '')
          .find((path) => path.length > 1)
          ?.slice(1)
    }),
    { code: 1, stderr: /linux\.cgroupsPath: .* has processes that are not the container’s/ },
  )
  if (!existsSync('/sys/module/apparmor'))
    t.match(
      rig.run('true', (config) => {
        config.process.apparmorProfile = 'p'
      }),
      { code: 1, stderr: /process\.apparmorProfile: .* without AppArmor/ },
    )
  if (!existsSync('/run/systemd/system')) {
    rig.config('true')
    t.match(rig.oci(['--systemd-cgroup', 'run', containerName(t)]), {
      code: 1,
      stderr: /systemd cgroup flag passed, but systemd support for managing cgroups is not available/,
    })
  }
  if (V1)
    t.match(
      rig.run('true', (config) => {
        config.linux.resources.unified = { 'memory.high': '1' }
      }),
      { code: 1, stderr: /linux\.resources\.unified cannot be set: this host has cgroups of version 1/ },
    )
  else
    t.match(
      rig.run('true', (config) => {
        config.linux.resources.memory = { swappiness: 5 }
      }),
      { code: 1, stderr: /linux\.resources\.memory\.swappiness cannot be set/ },
    )
  if (!existsSync('/sys/fs/cgroup/net_cls'))
    t.match(
      rig.run('true', (config) => {
        config.linux.resources.network = { classID: 5 }
      }),
      { code: 1, stderr: /net_cls\.classid|network\.classID/ },
    )
})

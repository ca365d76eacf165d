// wherry-oci on bundles: the life cycle, the effects of config.json as seen from inside, errors, and that
// nothing is left behind.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  globSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createCgroup, limitCgroup, locateCgroup, removeCgroup } from '../../services/runtime/cgroup/tree.ts'
import { openNative } from '../../services/runtime/native.ts'
import { parseMounts } from '../../services/runtime/cgroup/host.ts'
import {
  bundleFor,
  containerName,
  needsBundle,
  WHERRY_OCI,
  type BundleRig,
  type Config,
} from '../helpers/bundle.ts'
import { NATIVE_DIR, SLOWNESS } from '../helpers/container.ts'

const skip = needsBundle
/** Each of hundreds of commands starts Node. Tests unrelated to the kernel are skipped where that is slow. */
const skipSlow = skip || (SLOWNESS > 1 && 'emulated: too slow for this many commands')
const stateOf = (rig: BundleRig, id: string): { status: string; pid: number } =>
  JSON.parse(rig.oci(['state', id]).stdout)
/** Without pipes that a process left behind would keep open. */
const QUIET = { quiet: true }
const tmpfs = (destination: string, options: readonly string[]) => ({
  destination,
  type: 'tmpfs',
  source: 'tmpfs',
  options,
})

const CHECKS_MAX = 100

/** Whether the container reaches STATUS within a bounded number of checks. */
async function reaches(rig: BundleRig, id: string, status: string): Promise<boolean> {
  for (let i = 0; i < CHECKS_MAX; i++) {
    if (stateOf(rig, id).status === status) return true
    await new Promise((resolve) => {
      setTimeout(resolve, 20)
    })
  }
  return false
}

t.test('the life of a container', { skip }, async (t) => {
  const rig = bundleFor(t)
  const id = containerName(t)

  t.test('is creating, created, running, stopped, deleted', async (t) => {
    rig.config('echo started >/tmp/proof; exec sleep 1000', (config) => {
      config.root.readonly = false
    })
    t.match(rig.oci(['create', '--pid-file', 'pid', id], QUIET), { code: 0 })
    const created = stateOf(rig, id)
    t.match(created, { ociVersion: /^1\./, id, status: 'created', bundle: rig.directory, rootfs: rig.rootfs })
    t.equal(readFileSync(join(rig.directory, 'pid'), 'utf8'), String(created.pid))
    t.notOk(existsSync(join(rig.rootfs, 'tmp/proof')), 'its program does not run yet')
    t.match(rig.oci(['delete', id]), { code: 1, stderr: /is created, not stopped/ })
    t.match(rig.oci(['create', id], QUIET), { code: 1, stderr: /exists already/ })
    t.match(rig.oci(['start', id]), { code: 0 })
    t.match(stateOf(rig, id), { status: 'running', pid: created.pid })
    t.match(rig.oci(['start', id]), { code: 1, stderr: /is running, not created/ })
    t.match(rig.oci(['delete', id]), { code: 1, stderr: /is running/ })
    t.match(rig.oci(['kill', id, 'KILL']), { code: 0 })
    t.ok(await reaches(rig, id, 'stopped'))
    t.match(rig.oci(['kill', id]), { code: 1, stderr: /container not running/ })
    t.match(rig.oci(['delete', id]), { code: 0 })
    t.match(rig.oci(['state', id]), { code: 1, stderr: /does not exist/ })
    t.match(rig.oci(['delete', id]), { code: 1, stderr: /does not exist/ })
    t.match(rig.oci(['delete', '--force', id]), { code: 0 })
    t.same(globSync(`/sys/fs/cgroup/**/${id}`), [], 'no cgroup is left')
  })
  t.test('pauses, resumes and lists it and its processes', async (t) => {
    rig.config('while :; do :; done')
    rig.oci(['run', '--detach', id], QUIET)
    t.teardown(() => rig.oci(['delete', '-f', id]))
    t.match(rig.oci(['pause', id]), { code: 0 })
    t.equal(stateOf(rig, id).status, 'paused')
    const cpu = (): string => readFileSync(`/proc/${stateOf(rig, id).pid}/stat`, 'utf8').split(' ')[13]!
    const before = cpu()
    t.match(rig.oci(['exec', id, 'true']), { code: 255, stderr: /not running/ })
    t.equal(cpu(), before, 'it gets no CPU')
    t.match(rig.oci(['resume', id]), { code: 0 })
    t.equal(stateOf(rig, id).status, 'running')
    t.match(rig.oci(['resume', id]), { code: 1, stderr: /it is running/ })
    t.match(rig.oci(['list']).stdout, new RegExp(`${id} +\\d+ +running`))
    t.equal(rig.oci(['list', '-q']).stdout, `${id}\n`)
    for (const args of [
      ['list', '--format', 'x'],
      ['ps', '--format', 'x', id],
    ])
      t.match(rig.oci(args), { code: 1, stderr: /--format x is neither table nor json/ })
    t.match(rig.oci(['kill', id, '0']), { code: 0 })
    t.same(JSON.parse(rig.oci(['ps', '--format', 'json', id]).stdout), [stateOf(rig, id).pid])
    t.match(rig.oci(['ps', id]).stdout, /PID.*\n.*sh -c while/)
    t.match(rig.oci(['kill', '--all', id, '9']), { code: 0 })
    t.ok(await reaches(rig, id, 'stopped'))
  })
  t.test('deletes a paused container by force', async (t) => {
    rig.config('exec sleep 1000')
    rig.oci(['run', '-d', id], QUIET)
    rig.oci(['pause', id])
    t.match(rig.oci(['delete', '--force', id]), { code: 0 })
    t.match(rig.oci(['state', id]), { code: 1 })
  })
  t.test('a foreground run exits with its exit code and forwards signals', async (t) => {
    t.equal(rig.run('exit 42').code, 42)
    t.equal(rig.run('kill -9 $$').code, 0, 'process 1 does not hear itself')
    rig.config('trap "exit 7" TERM; echo ready; while :; do sleep 0.05; done')
    const child = spawn(WHERRY_OCI, ['--root', join(rig.directory, 'state'), 'run', id], {
      cwd: rig.directory,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await once(child.stdout, 'data')
    child.kill('SIGTERM')
    t.same(await once(child, 'exit'), [7, null])
    t.equal(rig.oci(['list', '-q']).stdout, '', 'it is deleted')
  })
})

t.test('applies config.json', { skip }, async (t) => {
  const rig = bundleFor(t)
  const sees = async (
    t: Test,
    script: string,
    change: (config: Config) => void,
    expected: string | RegExp,
  ): Promise<void> => {
    const { stdout, stderr } = rig.run(script, change)
    if (typeof expected === 'string') t.equal(stdout, expected, stderr)
    else t.match(stdout, expected, stderr)
  }

  t.test('user, groups, umask, working directory, environment', (t) =>
    sees(
      t,
      'id; umask; pwd; echo $A',
      (config) => {
        Object.assign(config.process, {
          user: { uid: 12, gid: 13, additionalGids: [14, 15], umask: 0o27 },
          cwd: '/new/place',
          env: ['PATH=/bin', 'A=x=y'],
        })
        config.root.readonly = false
      },
      'uid=12 gid=13 groups=14,15\n0027\n/new/place\nx=y\n',
    ),
  )
  t.test('capabilities and no_new_privs', (t) =>
    sees(
      t,
      'grep -E "^(Cap|NoN)" /proc/self/status',
      (config) => {
        config.process.capabilities = {
          bounding: ['CAP_CHOWN', 'CAP_KILL'],
          permitted: ['CAP_CHOWN'],
          effective: ['CAP_CHOWN'],
          inheritable: ['CAP_CHOWN'],
          ambient: ['CAP_CHOWN'],
        }
        config.process.user = { uid: 5, gid: 5 }
      },
      /CapInh:\t0+1\nCapPrm:\t0+1\nCapEff:\t0+1\nCapBnd:\t0+21\nCapAmb:\t0+1\nNoNewPrivs:\t1/,
    ),
  )
  t.test('resource limits, hostname, domain, oom score, personality', (t) =>
    sees(
      t,
      'ulimit -n; hostname; cat /proc/sys/kernel/domainname /proc/self/oom_score_adj /proc/self/personality',
      (config) => {
        config.process.rlimits = [{ type: 'RLIMIT_NOFILE', soft: 77, hard: 99 }]
        config.process.oomScoreAdj = 321
        Object.assign(config, { hostname: 'aboard', domainname: 'ship' })
        config.linux.personality = { domain: 'LINUX32' }
      },
      '77\naboard\nship\n321\n00000008\n',
    ),
  )
  t.test('sysctls of its namespaces', (t) =>
    sees(
      t,
      'cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax',
      (config) => {
        config.linux.sysctl = { 'net.ipv4.ip_forward': '1', 'kernel.msgmax': '5555' }
      },
      '1\n5555\n',
    ),
  )
  t.test('a read-only root, a tmpfs inside, a volume, a read-only one, a file', async (t) => {
    mkdirSync(join(rig.directory, 'volume/inner'), { recursive: true })
    writeFileSync(join(rig.directory, 'file'), 'content\n')
    const script =
      'for d in / /t /v /r; do touch $d/x 2>/dev/null && echo w $d; done; cat /etc/new; grep -cE " /(t|v|r) " /proc/self/mountinfo'
    await sees(
      t,
      script,
      (config) => {
        config.mounts.push(
          tmpfs('/t', ['size=64k']),
          { destination: '/v', type: 'bind', source: 'volume', options: ['rbind', 'rw'] },
          {
            destination: '/r',
            type: 'none',
            source: join(rig.directory, 'volume'),
            options: ['rbind', 'rro'],
          },
          { destination: '/etc/new', source: 'file', options: ['bind'] },
        )
      },
      'w /t\nw /v\ncontent\n3\n',
    )
    t.ok(existsSync(join(rig.directory, 'volume/x')))
  })
  t.test('tmpcopyup copies the image’s content', async (t) => {
    mkdirSync(join(rig.rootfs, 'kept/deep'), { recursive: true })
    writeFileSync(join(rig.rootfs, 'kept/deep/file'), 'from the image\n', { mode: 0o640 })
    symlinkSync('/nowhere', join(rig.rootfs, 'kept/link'))
    await sees(
      t,
      'cat /kept/deep/file; readlink /kept/link; ls -l /kept/deep/file | head -c 10; touch /kept/x && echo',
      (config) => {
        config.mounts.push(tmpfs('/kept', ['tmpcopyup']))
      },
      'from the image\n/nowhere\n-rw-r-----\n',
    )
    t.notOk(existsSync(join(rig.rootfs, 'kept/x')))
  })
  t.test('an overlay with long options', async (t) => {
    const long = join(rig.directory, 'l'.repeat(200))
    for (const name of ['a', 'b', 'upper', 'work']) mkdirSync(join(long, name), { recursive: true })
    writeFileSync(join(long, 'a/1'), '')
    writeFileSync(join(long, 'b/2'), '')
    await sees(
      t,
      'ls /o; touch /o/3',
      (config) => {
        config.mounts.push({
          destination: '/o',
          type: 'overlay',
          source: 'overlay',
          options: [`lowerdir=${long}/a:${long}/b`, `upperdir=${long}/upper`, `workdir=${long}/work`],
        })
      },
      '1\n2\n',
    )
    t.ok(existsSync(join(long, 'upper/3')))
  })
  t.test('default devices, configured devices, no others', async (t) => {
    await sees(
      t,
      'cd /dev; ls -ln kmsg2; for f in null zero full random urandom tty; do [ -c $f ] && echo -n "$f "; done; head -c 1 kmsg2 2>&1; head -c 3 zero | wc -c',
      (config) => {
        config.linux.devices = [
          { path: '/dev/kmsg2', type: 'c', major: 1, minor: 11, fileMode: 0o666, uid: 3, gid: 4 },
        ]
      },
      /^crw-rw-rw- +1 3 +4 +1, +11 .*\nnull zero full random urandom tty head: kmsg2: Operation not permitted\n3\n$/,
    )
  })
  t.test('masked files and folders are empty, read-only paths are read-only', async (t) => {
    mkdirSync(join(rig.rootfs, 'secret'), { recursive: true })
    writeFileSync(join(rig.rootfs, 'secret/key'), 'k')
    writeFileSync(join(rig.rootfs, 'secretfile'), 'k')
    await sees(
      t,
      'ls /secret; cat /secretfile; touch /etc/x 2>/dev/null || echo ro',
      (config) => {
        config.root.readonly = false
        config.linux.maskedPaths.push('/secret', '/secretfile', '/not/there')
        config.linux.readonlyPaths = ['/etc', '/not/there']
      },
      'ro\n',
    )
  })
  t.test('limits are in its cgroup, the only one that it sees', async (t) => {
    const v1 = existsSync('/sys/fs/cgroup/memory')
    const files = v1
      ? 'memory/memory.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us cpu/cpu.shares'
      : 'memory.max pids.max cpu.max cpu.weight'
    await sees(
      t,
      `cd /sys/fs/cgroup; cat ${files}; grep -vE ":/$" /proc/self/cgroup; mkdir x 2>/dev/null || echo ro`,
      (config) => {
        Object.assign(config.linux.resources, {
          memory: { limit: 64 << 20, swap: 64 << 20 },
          pids: { limit: 21 },
          cpu: { quota: 50_000, period: 100_000, shares: 512 },
        })
      },
      v1 ? `${64 << 20}\n21\n50000\n512\nro\n` : `${64 << 20}\n21\n50000 100000\n20\nro\n`,
    )
  })
  t.test('a seccomp profile with arguments and errno, without and with no_new_privs', async (t) => {
    for (const noNewPrivileges of [true, false]) {
      await sees(
        t,
        'mkdir /tmp/a 2>&1; chmod 644 /tmp; chmod 755 /tmp 2>&1; echo end',
        (config) => {
          config.root.readonly = false
          config.process.noNewPrivileges = noNewPrivileges
          config.linux.seccomp = {
            defaultAction: 'SCMP_ACT_ALLOW',
            architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86'],
            syscalls: [
              { names: ['mkdir', 'mkdirat', 'no_such_call'], action: 'SCMP_ACT_ERRNO', errnoRet: 28 },
              {
                names: ['chmod'],
                action: 'SCMP_ACT_ERRNO',
                args: [{ index: 1, value: 0o755, op: 'SCMP_CMP_EQ' }],
              },
            ],
          }
        },
        /mkdir: .*No space left on device\nchmod: \/tmp: Operation not permitted\nend\n/,
      )
    }
  })
  t.test('a user namespace with several ranges', (t) =>
    sees(
      t,
      'id -u; cat /proc/self/uid_map; echo x >/dev/null && echo writes',
      (config) => {
        config.linux.namespaces.push({ type: 'user' })
        config.linux.uidMappings = config.linux.gidMappings = [
          { containerID: 0, hostID: 100_000, size: 1000 },
          { containerID: 5000, hostID: 0, size: 1 },
        ]
        config.mounts = config.mounts.filter((mount: { type: string }) => mount.type !== 'cgroup')
      },
      /^0\n +0 +100000 +1000\n +5000 +0 +1\nwrites\n$/,
    ),
  )
  t.test('namespaces joined by path', async (t) => {
    const own = `${readlinkSync('/proc/self/ns/net')}\n`
    await sees(
      t,
      'readlink /proc/self/ns/net',
      (config) => {
        config.linux.namespaces.find((n: { type: string }) => n.type === 'network').path = '/proc/self/ns/net'
      },
      own,
    )
  })
  t.test('passes only preserved descriptors', async (t) => {
    rig.config('ls /proc/self/fd | tr "\\n" " "; cat <&3')
    writeFileSync(join(rig.directory, 'third'), 'third\n')
    const third = openSync(join(rig.directory, 'third'), 'r')
    const child = spawn(
      WHERRY_OCI,
      ['--root', join(rig.directory, 'state'), 'run', '--preserve-fds', '1', containerName(t)],
      { cwd: rig.directory, stdio: ['ignore', 'pipe', 'inherit', third] },
    )
    t.equal((await child.stdout!.toArray()).join(''), '0 1 2 3 4 third\n', '4 is the directory being listed')
  })
})

t.test('hooks', { skip: skipSlow }, async (t) => {
  const rig = bundleFor(t)
  const log = join(rig.directory, 'log')
  const host = readlinkSync('/proc/self/ns/mnt')
  const hook = (name: string) => ({
    path: '/bin/sh',
    args: ['sh', '-c', `cat >> ${log}; echo " ${name} $(readlink /proc/self/ns/mnt) $B" >> ${log}`],
    env: ['PATH=/bin', 'B=b'],
  })

  t.test('run in order, in their namespaces, with the state on stdin', async (t) => {
    const ended = rig.run('echo program', (config) => {
      config.hooks = Object.fromEntries(
        ['prestart', 'createRuntime', 'createContainer', 'poststart', 'poststop'].map((name) => [
          name,
          [hook(name)],
        ]),
      )
      config.hooks.startContainer = [
        { path: '/bin/sh', args: ['sh', '-c', 'cat >/dev/null; echo startContainer'] },
      ]
    })
    t.match(ended, { code: 0, stdout: 'startContainer\nprogram\n' })
    const lines = readFileSync(log, 'utf8')
      .trim()
      .split('\n')
      .map((line) => ({
        state: JSON.parse(line.slice(0, line.lastIndexOf('}') + 1)),
        words: line.slice(line.lastIndexOf('}') + 2).split(' '),
      }))
    t.same(
      lines.map(({ words }) => words[0]),
      ['prestart', 'createRuntime', 'createContainer', 'poststart', 'poststop'],
    )
    t.same(
      lines.map(({ words }) => words[1] === host),
      [true, true, false, true, true],
      'createContainer runs in the container’s mount namespace',
    )
    t.ok(lines.every(({ words }) => words[2] === 'b'))
    t.same(
      lines.map(({ state }) => state.status),
      ['creating', 'creating', 'creating', 'running', 'stopped'],
    )
    t.ok(lines.slice(0, 4).every(({ state }) => state.pid > 1))
  })
  t.test(
    'startContainer runs with the identity and the walls of the process, as the image has its program',
    async (t) => {
      const ended = rig.run('cat /tmp/hook', (config) => {
        config.process.user = { uid: 1000, gid: 1000, umask: 0o27 }
        config.process.noNewPrivileges = true
        config.process.capabilities = { bounding: ['CAP_KILL'] }
        config.process.rlimits = [{ type: 'RLIMIT_NOFILE', soft: 77, hard: 77 }]
        config.process.env = ['PATH=/bin', 'OF_PROCESS=yes']
        config.linux.seccomp = { defaultAction: 'SCMP_ACT_ALLOW', architectures: [], syscalls: [] }
        config.mounts.push({ destination: '/tmp', type: 'tmpfs', source: 'tmpfs', options: ['mode=1777'] })
        config.hooks = {
          startContainer: [
            {
              path: '/bin/sh',
              args: [
                'sh',
                '-c',
                '{ cat >/dev/null; grep -E "^(Uid|CapBnd|CapEff|Seccomp|NoNewPrivs):" /proc/self/status; ulimit -n; echo $OF_PROCESS; } >/tmp/hook',
              ],
            },
          ],
        }
      })
      t.equal(ended.code, 0, ended.stderr)
      t.match(ended.stdout, /^Uid:\s1000\s1000\s/m)
      t.match(ended.stdout, /^CapEff:\s0+$/m)
      t.match(ended.stdout, /^CapBnd:\s0+20$/m)
      t.match(ended.stdout, /^NoNewPrivs:\s1$/m)
      t.match(ended.stdout, /^Seccomp:\s2$/m)
      t.match(ended.stdout, /^77\nyes$/m)
    },
  )
  t.test('need not read their stdin', async (t) => {
    for (let i = 0; i < 3; i++)
      t.match(
        rig.run('echo ran', (config) => {
          config.hooks = { createRuntime: [{ path: '/bin/true' }], createContainer: [{ path: '/bin/true' }] }
        }),
        { code: 0, stdout: 'ran\n' },
      )
  })
  t.test('that fail stop the container and leave nothing', async (t) => {
    for (const [change, why] of [
      [{ createRuntime: [{ path: '/bin/false' }] }, /hooks\.createRuntime\[0\]: \/bin\/false: exit code 1/],
      [
        { createRuntime: [{ path: '/bin/sleep', args: ['sleep', '30'], timeout: 1 }] },
        /createRuntime\[0\].*killed after 1 s/,
      ],
      [{ createContainer: [{ path: '/bin/false' }] }, /hook \/bin\/false: hook failed/],
      [
        { startContainer: [{ path: '/bin/sleep', args: ['sleep', '30'], timeout: 1 }] },
        /hook \/bin\/sleep: hook: ETIMEDOUT/,
      ],
    ] as const) {
      t.match(
        rig.run('echo ran', (config) => {
          config.hooks = change
        }),
        { code: 1, stdout: '', stderr: why },
      )
      t.equal(rig.oci(['list', '-q']).stdout, '')
    }
  })
})

t.test('exec', { skip }, async (t) => {
  const rig = bundleFor(t)
  const id = containerName(t)
  rig.config('exec sleep 1000', (config) => {
    config.hostname = 'target'
  })
  rig.oci(['run', '-d', id], QUIET)

  t.test('runs in the container’s namespaces and cgroup', async (t) => {
    t.match(
      rig.oci(['exec', id, 'sh', '-c', 'hostname; cat /proc/1/comm; grep -vcE ":/$" /proc/self/cgroup']),
      { stdout: 'target\nsleep\n0\n' },
    )
    const pid = stateOf(rig, id).pid
    for (const name of ['mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup']) {
      t.equal(
        rig.oci(['exec', id, 'readlink', `/proc/self/ns/${name}`]).stdout.trim(),
        readlinkSync(`/proc/${pid}/ns/${name}`),
      )
    }
  })
  t.test('passes stdin, exit code, user, variables and folder', async (t) => {
    t.match(rig.oci(['exec', id, 'cat'], { input: 'hello' }), { stdout: 'hello' })
    t.equal(rig.oci(['exec', id, 'sh', '-c', 'exit 9']).code, 9)
    t.equal(
      rig.oci([
        'exec',
        '--user',
        '7:8',
        '-g',
        '9',
        '-e',
        'X=1',
        '--cwd',
        '/etc',
        id,
        'sh',
        '-c',
        'id; echo $X; pwd',
      ]).stdout,
      'uid=7 gid=8 groups=9\n1\n/etc\n',
    )
  })
  t.test('accepts a process of the spec and names its faults', async (t) => {
    writeFileSync(
      join(rig.directory, 'process.json'),
      JSON.stringify({ args: ['id', '-u'], cwd: '/', env: ['PATH=/bin'], user: { uid: 3, gid: 3 } }),
    )
    t.match(rig.oci(['exec', '--process', 'process.json', id]), { code: 0, stdout: '3\n' })
    writeFileSync(join(rig.directory, 'process.json'), JSON.stringify({ args: [], cwd: 'x' }))
    t.match(rig.oci(['exec', '--process', 'process.json', id]), {
      code: 255,
      stderr: /process\.args: is empty.*process\.cwd: "x" is not an absolute path/,
    })
  })
  t.test('reports a missing command in the words that engines search for', async (t) => {
    t.match(rig.oci(['exec', id, 'nothing']), {
      code: 255,
      stderr: /exec: "nothing": executable file not found in \$PATH/,
    })
    t.match(rig.oci(['exec', id, '']), { code: 255, stderr: /exec: "": executable file not found in \$PATH/ })
    t.match(rig.oci(['exec', '--cwd', 'x', id, 'id']), {
      code: 255,
      stderr: /--cwd x is not an absolute path/,
    })
    t.match(rig.oci(['exec', '--env', 'A', id, 'id']), { code: 255, stderr: /--env A is not NAME=value/ })
    t.match(rig.oci(['exec', id, '/nothing']), { code: 255, stderr: /no such file or directory/ })
    t.match(rig.oci(['exec', id, '/etc']), { code: 255, stderr: /permission denied/ })
  })
  t.test('the program that joins cannot be reached from inside (CVE-2019-5736)', async (t) => {
    const files = ['wherry-init', 'libwherry.so'].map((name) => readFileSync(join(NATIVE_DIR, name)))
    writeFileSync(join(rig.rootfs, 'bin/evil'), '#!/proc/self/exe\n', { mode: 0o755 })
    const { code, stderr } = rig.oci(['exec', id, '/bin/evil'])
    t.not(code, 0, stderr)
    t.ok(
      ['wherry-init', 'libwherry.so'].every((name, i) =>
        readFileSync(join(NATIVE_DIR, name)).equals(files[i]!),
      ),
    )
    t.match(rig.oci(['exec', id, '/proc/self/exe']), { code: 255, stderr: /ELOOP/ })
  })
  t.test('a detached process keeps running and writes its pid file', async (t) => {
    t.match(rig.oci(['exec', '-d', '--pid-file', 'exec.pid', id, 'sleep', '999'], QUIET), { code: 0 })
    t.match(
      readFileSync(`/proc/${readFileSync(join(rig.directory, 'exec.pid'), 'utf8')}/cmdline`, 'utf8')
        .split('\0')
        .join(' '),
      /^sleep 999/,
    )
  })
})

t.test('a terminal', { skip: skipSlow }, async (t) => {
  const rig = bundleFor(t)
  const id = containerName(t)
  t.test('is made inside and sent to the console socket', async (t) => {
    // Node cannot receive descriptors; the test only sees a connection that delivers its byte.
    const path = join(rig.directory, 'console.sock')
    const got = Promise.withResolvers<Buffer>()
    const server = createServer((socket) => {
      socket.on('data', (data: Buffer) => {
        got.resolve(data)
      })
    })
    await new Promise<void>((resolve) => {
      server.listen(path, resolve)
    })
    t.teardown(() => {
      server.close()
    })
    rig.config('tty >/tmp/tty; test -c /dev/console && stty size >/tmp/size; exec sleep 1000', (config) => {
      config.root.readonly = false
      config.process.terminal = true
      config.process.consoleSize = { height: 33, width: 77 }
    })
    const child = spawn(
      WHERRY_OCI,
      ['--root', join(rig.directory, 'state'), 'create', '--console-socket', path, id],
      { cwd: rig.directory, stdio: 'ignore' },
    )
    t.equal((await got.promise).length, 1)
    await once(child, 'exit')
    t.equal(stateOf(rig, id).status, 'created')
    rig.oci(['delete', '-f', id])
  })
  t.test('is rejected without a server, and a console socket without a terminal', async (t) => {
    rig.config('true', (config) => {
      config.process.terminal = true
    })
    t.match(rig.oci(['create', id], QUIET), { code: 1, stderr: /give --console-socket/ })
    rig.config('true')
    t.match(rig.oci(['create', '--console-socket', 'x', id], QUIET), { code: 1, stderr: /terminal is false/ })
  })
})

t.test('errors', { skip: skipSlow }, async (t) => {
  const rig = bundleFor(t)
  const cases: ReadonlyArray<[string, (config: Config) => void, RegExp]> = [
    [
      'a missing program',
      (c) => {
        c.process.args = ['/nothing']
      },
      /exec: "\/nothing": no such file or directory/,
    ],
    [
      'all invalid fields',
      (c) => {
        c.process.rlimits = [{ type: 'X', soft: 2, hard: 1 }]
        c.process.cwd = 'x'
      },
      /process\.cwd: "x".*process\.rlimits\[0\]\.type: "X" is not a resource limit.*soft: 2 is above/,
    ],
    [
      'a missing root',
      (c) => {
        c.root.path = 'none'
      },
      /root\.path: ".*none" is not a directory/,
    ],
    [
      'a missing source',
      (c) => {
        c.mounts.push({ destination: '/v', type: 'bind', source: '/none', options: [] })
      },
      /tree \/none: open_tree: ENOENT/,
    ],
    [
      'a mount over a file of /proc',
      (c) => {
        c.mounts.push({ destination: '/proc/self/attr', type: 'bind', source: '/tmp', options: [] })
      },
      /mounts\[\d\]\.destination: "\/proc\/self\/attr" is in \/proc/,
    ],
    [
      'a limit that the kernel rejects',
      (c) => {
        c.linux.resources.cpu = { cpus: '9999' }
      },
      /cgroup file cpuset\.cpus .*EINVAL|cpuset/,
    ],
    [
      'an unknown file system',
      (c) => {
        c.mounts.push({ destination: '/v', type: 'nofs', source: 'x' })
      },
      /mount .*: ENODEV/,
    ],
  ]
  for (const [what, change, why] of cases) {
    t.test(`${what} is named`, async (t) => {
      t.match(rig.run('echo ran', change), { code: 1, stdout: '', stderr: why })
      t.equal(rig.oci(['list', '-q']).stdout, '')
    })
  }
  t.test('links of the image at /proc, /sys and /dev', async (t) => {
    const outside = join(rig.directory, 'outside')
    mkdirSync(outside)
    for (const name of ['proc', 'sys', 'dev']) {
      rmSync(join(rig.rootfs, name), { recursive: true })
      symlinkSync(outside, join(rig.rootfs, name))
      t.match(rig.run('echo ran'), {
        code: 1,
        stdout: '',
        stderr: new RegExp(`attach /${name}: openat2: ELOOP`),
      })
      rmSync(join(rig.rootfs, name))
      mkdirSync(join(rig.rootfs, name))
    }
    t.same(globSync(`${outside}/*`), [])
  })
  t.test('leaves nothing', async (t) => {
    t.notMatch(readFileSync('/proc/self/mountinfo', 'utf8'), rig.directory)
    t.same(globSync(`/sys/fs/cgroup/**/${containerName(t)}*`), [])
  })
  t.test('invalid command lines', async (t) => {
    for (const args of [
      ['nothing'],
      ['state'],
      ['state', 'a', 'b'],
      ['create', '--nothing', 'x'],
      ['state', '../x'],
      ['kill', 'x', 'NOSIGNAL'],
      ['--log-format', 'xml', 'list'],
      ['create', '--no-pivot', 'x'],
    ]) {
      t.match(rig.oci(args), { code: 1, stderr: /^wherry-oci: / }, args.join(' '))
    }
  })
})

t.test('the interface for engines', { skip: skipSlow }, async (t) => {
  const rig = bundleFor(t)
  t.test('errors go to the log as JSON', async (t) => {
    rig.oci(['--log', join(rig.directory, 'log.json'), '--log-format', 'json', 'state', 'none'])
    t.match(JSON.parse(readFileSync(join(rig.directory, 'log.json'), 'utf8')), {
      level: 'error',
      msg: /does not exist/,
      time: /^\d{4}-/,
    })
  })
  t.test('prints features and a spec', async (t) => {
    t.match(JSON.parse(rig.oci(['features']).stdout), {
      ociVersionMin: '1.0.0',
      linux: { seccomp: { enabled: true } },
    })
    t.match(rig.oci(['spec']), { code: 0 })
    t.match(rig.oci(['spec']), { code: 1, stderr: /already exists/ })
    t.match(rig.oci(['--version']).stdout, /^wherry-oci version .*\nspec: 1\./)
  })
  t.test('only root can enter its folders', async (t) => {
    rig.config('exec sleep 1000')
    rig.oci(['run', '-d', containerName(t)], QUIET)
    t.equal(statSync(join(rig.directory, 'state')).mode & 0o777, 0o700)
    rig.oci(['delete', '-f', containerName(t)])
  })
})

t.test('the kernel accepts device rules on cgroup v2', { skip }, async (t) => {
  const { v2 } = parseMounts(readFileSync('/proc/self/mountinfo', 'utf8'))
  if (!v2) return t.comment('SKIP no cgroup v2 is mounted here')
  const directory = v2.directoryOf(`/${containerName(t)}`)
  const tree = {
    version: 2,
    directories: [{ controllers: [], mountName: 'cgroup', path: directory }],
  } as const
  createCgroup(tree)
  t.teardown(() => removeCgroup(tree))
  const rules = [
    { allow: false, type: 'a', access: 'rwm' },
    { allow: true, type: 'b', major: 8, access: 'r' },
  ] as const
  const resources = {
    devices: rules,
    memory: {},
    cpu: {},
    pids: {},
    blockIO: { throttle: [], weightDevice: [] },
    network: { priorities: [] },
    rdma: [],
    hugepageLimits: [],
    unified: {},
  }
  limitCgroup(openNative(NATIVE_DIR), tree, resources)
  const inside = (script: string): string =>
    execFileSync('/bin/sh', ['-c', `echo $$ >${directory}/cgroup.procs; ${script}`], { encoding: 'utf8' })
  t.equal(
    inside('head -c 1 /dev/zero | wc -c; head -c 1 /dev/kmsg 2>&1; true'),
    "1\nhead: cannot open '/dev/kmsg' for reading: Operation not permitted\n",
  )
  t.ok(locateCgroup('/a/b', 'x').directories.every(({ path }) => path.endsWith('/a/b')))
})

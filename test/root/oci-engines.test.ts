// Real engines with wherry-oci as their runtime: podman, and a private Docker daemon with its own data,
// socket and runtime folder. The tests use only the engines' commands, because how an engine calls its
// runtime is its own affair.

import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { SLOWNESS } from '../helpers/container.ts'
import { makeRootfs, needsBundle, WHERRY_OCI, type Ended } from '../helpers/bundle.ts'

/** Parent of all cgroups of the engines, so that the tests can inspect and remove them. */
const CGROUP = `wherry-test-${process.pid}`
const COMMAND_MAX_MS = 300_000
const DAEMON_LOOKS = 1200

function missing(...programs: string[]): false | string {
  const absent = programs.filter((program) => spawnSync('which', [program]).status !== 0)
  return (
    needsBundle ||
    (SLOWNESS > 1 && 'emulated: too slow for an engine') ||
    (absent.length > 0 && `needs ${absent.join(', ')} (Debian packages podman, docker.io)`)
  )
}

/** A folder for an engine, removed after T, with the root file system of an image as a tar file. */
function folderFor(t: Test): { directory: string; tar: string } {
  const directory = mkdtempSync(join(tmpdir(), 'wherry-engine-'))
  const rootfs = join(directory, 'rootfs')
  makeRootfs(rootfs)
  const tar = join(directory, 'image.tar')
  execFileSync('tar', ['-C', rootfs, '-cf', tar, '.'])
  t.teardown(() => {
    // dockerd keeps the host's network namespace mounted for `--network host`.
    for (const [, path] of readFileSync('/proc/self/mountinfo', 'utf8').matchAll(/^(?:\S+ ){4}(\S+)/gm))
      if (path!.startsWith(`${directory}/`)) spawnSync('umount', [path!])
    rmSync(directory, { recursive: true, force: true })
  })
  return { directory, tar }
}

interface Engine {
  (args: readonly string[], input?: string): Ended
  /** Its command line in a shell. */
  readonly program: string
}

/** An engine that runs in DIRECTORY, because conmon leaves a file named `oom` in the working directory. */
const engineOf = (program: string, before: readonly string[], directory: string): Engine =>
  Object.assign(
    (args: readonly string[], input = ''): Ended => {
      const { status, stdout, stderr } = spawnSync(program, [...before, ...args], {
        cwd: directory,
        encoding: 'utf8',
        input,
        timeout: COMMAND_MAX_MS,
      })
      return { code: status, stdout, stderr }
    },
    { program: `cd ${directory} && ${[program, ...before].join(' ')}` },
  )

/** Tests for any engine.  FLAGS are for its `run`. */
async function exercise(t: Test, engine: Engine, flags: readonly string[], name: string): Promise<void> {
  const run = (more: readonly string[], command: readonly string[], input?: string): Ended =>
    engine(['run', '--rm', ...flags, ...more, 'box', ...command], input)

  t.test('passes output, stdin and exit codes', async (t) => {
    t.match(run([], ['echo', 'hello']), { code: 0, stdout: 'hello\n' })
    t.match(run(['-i'], ['cat'], 'body'), { code: 0, stdout: 'body' })
    t.equal(run([], ['sh', '-c', 'exit 9']).code, 9)
    t.equal(run([], ['nothing']).code, 127, 'a command that is not there')
    t.equal(run([], ['/etc']).code, 126, 'a command that is none')
  })
  t.test('applies limits and identity', async (t) => {
    const files = existsSync('/sys/fs/cgroup/memory')
      ? 'memory/memory.limit_in_bytes pids/pids.max'
      : 'memory.max pids.max'
    t.match(
      run(
        [
          '--memory',
          '64m',
          '--pids-limit',
          '20',
          '--user',
          '12:13',
          '--hostname',
          'aboard',
          '--cap-drop',
          'ALL',
          '--workdir',
          '/tmp',
        ],
        [
          'sh',
          '-c',
          `pwd; id -u; id -g; hostname; grep CapBnd /proc/self/status; cd /sys/fs/cgroup; cat ${files}`,
        ],
      ),
      { code: 0, stdout: `/tmp\n12\n13\naboard\nCapBnd:\t0000000000000000\n${64 << 20}\n20\n` },
    )
  })
  t.test('volumes, tmpfs and a read-only root', async (t) => {
    const volume = mkdtempSync(join(tmpdir(), 'wherry-volume-'))
    t.teardown(() => {
      rmSync(volume, { recursive: true })
    })
    writeFileSync(join(volume, 'file'), 'kept\n')
    t.match(
      run(
        ['--read-only', '--tmpfs', '/scratch', '-v', `${volume}:/v`, '-v', `${volume}:/r:ro`],
        [
          'sh',
          '-c',
          'cat /v/file; for d in / /scratch /v /r; do touch $d/x 2>/dev/null && echo $d; done; true',
        ],
      ),
      { code: 0, stdout: 'kept\n/scratch\n/v\n' },
    )
  })
  t.test('runs a container through exec, pause, stop, start, remove', async (t) => {
    t.equal(engine(['run', '-d', '--name', name, ...flags, 'box', 'sleep', '1000']).code, 0)
    t.match(engine(['exec', name, 'cat', '/proc/1/comm']), { code: 0, stdout: 'sleep\n' })
    t.equal(engine(['exec', name, 'sh', '-c', 'exit 5']).code, 5)
    t.match(engine(['exec', '-t', name, 'tty']), { stdout: /\/dev\/pts\/0/ })
    t.equal(engine(['pause', name]).code, 0)
    t.match(engine(['inspect', '--format', '{{.State.Status}}', name]).stdout, /paused/)
    t.equal(engine(['unpause', name]).code, 0)
    t.match(engine(['top', name]).stdout, /sleep 1000/)
    t.equal(engine(['stop', '-t', '0', name]).code, 0)
    t.match(
      engine(['inspect', '--format', '{{.State.Status}} {{.State.ExitCode}}', name]).stdout,
      /exited 137/,
    )
    const again = engine(['start', name])
    t.equal(again.code, 0, `starts again: ${again.stderr}`)
    t.equal(engine(['rm', '-f', name]).code, 0)
  })
  t.test('changes limits of a running container and reports its usage', async (t) => {
    const file = existsSync('/sys/fs/cgroup/memory')
      ? '/sys/fs/cgroup/memory/memory.limit_in_bytes'
      : '/sys/fs/cgroup/memory.max'
    t.equal(
      engine(['run', '-d', '--name', name, ...flags, '--memory', '64m', 'box', 'sleep', '1000']).code,
      0,
    )
    t.match(engine(['update', '--memory', '128m', '--memory-swap', '256m', name]), { code: 0 })
    t.match(engine(['exec', name, 'cat', file]).stdout, `${128 << 20}\n`)
    t.match(engine(['stats', '--no-stream', name]).stdout, /MiB|MB|kB/)
    t.match(
      run(['--pid', `container:${name}`], ['cat', '/proc/1/comm']),
      { code: 0, stdout: 'sleep\n' },
      'a second container in its pid namespace',
    )
    t.match(
      engine([
        'exec',
        '--user',
        '5',
        '--workdir',
        '/tmp',
        '--env',
        'A=b',
        name,
        'sh',
        '-c',
        'id -u; pwd; echo $A',
      ]),
      { code: 0, stdout: '5\n/tmp\nb\n' },
    )
    t.equal(engine(['kill', '--signal', 'KILL', name]).code, 0)
    t.equal(engine(['restart', '-t', '0', name]).code, 0)
    t.match(engine(['exec', name, 'cat', file]).stdout, /^\d+\n$/)
    t.equal(engine(['rm', '-f', name]).code, 0)
  })
  t.test('applies a seccomp profile, a device, a sysctl, file limits, capabilities', async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'wherry-profile-'))
    t.teardown(() => {
      rmSync(directory, { recursive: true })
    })
    const profile = join(directory, 'profile.json')
    writeFileSync(
      profile,
      JSON.stringify({
        defaultAction: 'SCMP_ACT_ALLOW',
        syscalls: [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO' }],
      }),
    )
    t.match(
      run(['--security-opt', `seccomp=${profile}`], ['sh', '-c', 'mkdir /tmp/x']).stderr,
      /Operation not permitted/,
    )
    t.match(
      run(['--security-opt', 'no-new-privileges'], ['grep', 'NoNewPrivs', '/proc/self/status']).stdout,
      'NoNewPrivs:\t1\n',
    )
    t.match(
      run(
        ['--device', '/dev/kmsg:/dev/journal:w'],
        ['sh', '-c', 'test -c /dev/journal && echo there; head -c 1 /dev/journal'],
      ),
      { stdout: 'there\n', stderr: /not permitted/ },
    )
    t.match(
      run(
        [
          '--sysctl',
          'net.ipv4.ip_forward=1',
          '--ulimit',
          'core=77:99',
          '--cap-drop',
          'ALL',
          '--cap-add',
          'CHOWN',
        ],
        ['sh', '-c', 'cat /proc/sys/net/ipv4/ip_forward; ulimit -c; grep CapEff /proc/self/status'],
      ),
      { code: 0, stdout: /^1\n\d+\nCapEff:\t0000000000000001\n/ },
    )
  })
  t.test('propagates host mounts into a volume', async (t) => {
    const volume = mkdtempSync(join(tmpdir(), 'wherry-volume-'))
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', volume])
    t.teardown(() => {
      execFileSync('umount', ['--lazy', volume])
      rmSync(volume, { recursive: true })
    })
    execFileSync('mount', ['--make-shared', volume])
    t.equal(
      engine(['run', '-d', '--name', name, ...flags, '-v', `${volume}:/v:rslave`, 'box', 'sleep', '1000'])
        .code,
      0,
    )
    mkdirSync(join(volume, 'late'))
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', join(volume, 'late')])
    writeFileSync(join(volume, 'late/file'), 'seen\n')
    t.match(engine(['exec', name, 'cat', '/v/late/file']), { code: 0, stdout: 'seen\n' })
    t.equal(engine(['rm', '-f', name]).code, 0)
  })
  t.test('enforces the memory limit', async (t) => {
    t.equal(run(['--memory', '16m'], ['sh', '-c', 'x=a; while :; do x=$x$x; done']).code, 137)
  })
  t.test('a terminal', async (t) => {
    t.match(
      run(['-t'], ['sh', '-c', 'tty; test -c /dev/console && echo console']).stdout,
      /\/dev\/pts\/0\r\nconsole/,
    )
    // script(1) gives the engine a terminal, as in an interactive session.
    const typed = [engine.program, 'run', '--rm', '-it', ...flags, 'box', 'sh'].join(' ')
    const { stdout } = spawnSync('script', ['-qec', typed, '/dev/null'], {
      encoding: 'utf8',
      input: 'echo "<$((40+2))>"; tty; exit 3\n',
      timeout: COMMAND_MAX_MS,
    })
    t.match(stdout, /<42>\r\n\/dev\/pts\/0/)
  })
}

t.test('podman', { skip: missing('podman', 'conmon') }, async (t) => {
  const { directory, tar } = folderFor(t)
  const podman = engineOf(
    'podman',
    [
      '--root',
      join(directory, 'root'),
      '--runroot',
      join(directory, 'run'),
      '--tmpdir',
      join(directory, 'tmp'),
      '--storage-driver',
      'vfs',
      '--cgroup-manager',
      'cgroupfs',
      '--events-backend',
      'none',
      '--runtime',
      WHERRY_OCI,
    ],
    directory,
  )
  t.teardown(() => podman(['rm', '-fa']))
  t.match(podman(['import', tar, 'box']), { code: 0 })
  // podman's default limits exceed those of root on a restricted machine.
  const flags = [
    '--network',
    'none',
    '--ulimit',
    'nofile=1024:1024',
    '--ulimit',
    'nproc=1024:1024',
    '--cgroup-parent',
    `/${CGROUP}`,
  ]
  await exercise(t, podman, flags, CGROUP)
  t.test('a user namespace', async (t) => {
    t.match(
      podman(['run', '--rm', ...flags, '--uidmap', '0:100000:65536', 'box', 'cat', '/proc/self/uid_map'])
        .stdout,
      /^ +0 +100000 +65536\n$/,
    )
  })
})

async function startDocker(t: Test, directory: string): Promise<Engine> {
  const socket = `unix://${directory}/docker.sock`
  const log = join(directory, 'log')
  const daemon = spawn(
    'setpriv',
    [
      '--pdeathsig',
      'SIGTERM',
      '--',
      'sh',
      '-c',
      `exec dockerd "$@" >${log} 2>&1`,
      'sh',
      '--data-root',
      join(directory, 'data'),
      '--exec-root',
      join(directory, 'exec'),
      '--pidfile',
      join(directory, 'pid'),
      '-H',
      socket,
      '--bridge',
      'none',
      '--iptables=false',
      '--storage-driver',
      'vfs',
      '--add-runtime',
      `wherry=${WHERRY_OCI}`,
    ],
    { stdio: 'ignore' },
  )
  const docker = engineOf('docker', ['-H', socket], directory)
  t.teardown(async () => {
    if (daemon.exitCode !== null) return
    const ended = once(daemon, 'exit')
    daemon.kill('SIGTERM')
    await ended
  })
  for (let look = 0; look < DAEMON_LOOKS; look++) {
    if (existsSync(join(directory, 'docker.sock')) && docker(['version']).code === 0) return docker
    if (daemon.exitCode !== null) break
    await new Promise((resolve) => {
      setTimeout(resolve, 100)
    })
  }
  throw new Error(`dockerd did not start: ${readFileSync(log, 'utf8').slice(-500)}`)
}

t.test('docker', { skip: missing('dockerd', 'docker', 'containerd') }, async (t) => {
  const { directory, tar } = folderFor(t)
  const docker = await startDocker(t, directory)
  t.match(docker(['import', tar, 'box']), { code: 0 })
  const name = CGROUP
  const flags = ['--runtime', 'wherry', '--network', 'none', '--cgroup-parent', `/${CGROUP}`]
  await exercise(t, docker, flags, name)
  t.test('uses wherry-oci', async (t) => {
    t.equal(docker(['create', '--name', name, ...flags, 'box', 'true']).code, 0)
    t.equal(docker(['inspect', '--format', '{{.HostConfig.Runtime}}', name]).stdout, 'wherry\n')
    docker(['rm', name])
  })
  t.test('--privileged, --init and the host’s namespaces', async (t) => {
    t.match(docker(['run', '--rm', ...flags, '--privileged', 'box', 'grep', 'CapEff', '/proc/self/status']), {
      code: 0,
      stdout: /CapEff:\t0000003/,
    })
    if (spawnSync('which', ['docker-init']).status === 0)
      t.match(docker(['run', '--rm', ...flags, '--init', 'box', 'cat', '/proc/1/comm']), {
        code: 0,
        stdout: 'docker-init\n',
      })
    t.match(
      docker([
        'run',
        '--rm',
        '--runtime',
        'wherry',
        '--network',
        'host',
        '--pid',
        'host',
        'box',
        'sh',
        '-c',
        'echo /proc/[0-9]* | wc -w',
      ]).stdout,
      /^\d{2,}\n$/,
    )
  })
})

t.test('engines leave no cgroup of a container', { skip: needsBundle }, async (t) => {
  const left = globSync(`/sys/fs/cgroup/**/${CGROUP}/**/`)
    .map((path) => path.replace(/\/$/, ''))
    .sort((a, b) => b.length - a.length)
  t.same(
    left.filter((path) => /[0-9a-f]{64}/.test(path)),
    [],
  )
  for (const path of left) rmdirSync(path) // podman keeps the parent, and one cgroup for conmon
})

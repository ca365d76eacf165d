// `wherry build` as a user runs it: the command, its output, its images in other tools, and what remains
// after it is killed.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { makeBusyboxLayer } from '../../infra/demo/image.ts'
import { findProgram } from '../../services/cli/up/parts.ts'
import { writeContext, type ContextFiles } from '../helpers/build.ts'
import { startRegistry } from '../helpers/registry.ts'
import { cannotRun, COMMAND, runWherry, shortFolder, type Finished } from '../helpers/wherry.ts'

const missing = (...programs: readonly string[]): string | false => {
  const absent = programs.filter((program) => findProgram(program, process.env) === undefined)
  return cannotRun || (absent.length > 0 && `needs ${absent.join(', ')} (Debian packages of the same names)`)
}

/** Uses every part of the language that buildah supports too. */
const APP = `ARG BASE=base
FROM \${BASE} AS builder
ARG GREETING=hello
WORKDIR /src
COPY --chown=7:8 main.txt lib/ ./
RUN tr a-z A-Z <main.txt >upper.txt && echo "$GREETING" >greeting && ln -s upper.txt link && ln upper.txt hard && chmod 750 greeting

FROM base
ENV PLACE=/srv OTHER="a b"
LABEL name="two words" n=1
COPY --from=builder /src \${PLACE}/
COPY --from=builder --chown=nobody /src/greeting /greeting
RUN rm /etc/group && mkdir /new && echo x >/new/x
ADD archive.tar /unpacked
USER nobody
EXPOSE 8080
VOLUME ["/data"]
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/cat"]
CMD ["/srv/upper.txt"]
`

interface Place {
  readonly data: string
  build: (
    dockerfile: string,
    files?: ContextFiles,
    args?: readonly string[],
    more?: Parameters<typeof runWherry>[1],
  ) => Promise<Finished>
}

async function placeFor(t: Test): Promise<Place> {
  const folder = shortFolder(t)
  const data = join(folder, 'data')
  let count = 0
  const place: Place = {
    data,
    async build(dockerfile, files = {}, args = [], more = {}) {
      const context = join(folder, `context${count++}`)
      mkdirSync(context)
      writeContext(context, { Dockerfile: dockerfile, ...files })
      return await runWherry(['build', '--data', data, '--network', 'none', ...args, context], more)
    },
  }
  const base = await place.build(
    'FROM scratch\nADD base.tar.gz /\nENV PATH=/bin\n',
    { 'base.tar.gz': makeBusyboxLayer() },
    ['-t', 'base'],
  )
  t.match(base, {
    code: 0,
    stdout: /^built docker\.io\/library\/base:latest, [0-9a-f]{12}, \d+ KiB|MiB packed\n$/,
  })
  return place
}

t.test('wherry build', { skip: cannotRun }, async (t) => {
  const place = await placeFor(t)

  await t.test('shows each step, and which ones were cached', async (t) => {
    const dockerfile = 'FROM base\nRUN echo one; printf "\\033[31mtwo"\n'
    t.match(await place.build(dockerfile, {}, ['-t', 'app', '-t', 'localhost:5000/app:v1']), {
      code: 0,
      stdout: /^built docker\.io\/library\/app:latest, localhost:5000\/app:v1, /,
      stderr:
        /^#1 \[base\] FROM base\n#1 DONE [\d.]+s\n\n#2 \[1\/1\] RUN echo one;.*\n#2 [\d.]+ one\n#2 [\d.]+ �\[31mtwo\n#2 DONE [\d.]+s\n\n$/,
    })
    t.match(await place.build(dockerfile), { code: 0, stderr: /#2 CACHED\n/ })
    const { stdout: quiet, stderr } = await place.build(dockerfile, {}, [
      '-q',
      '--iidfile',
      join(place.data, 'id'),
    ])
    t.match(quiet, /^sha256:[0-9a-f]{64}\n$/)
    t.equal(stderr, '')
    t.equal(readFileSync(join(place.data, 'id'), 'utf8'), quiet.trim())
    t.match(JSON.parse((await place.build(dockerfile, {}, ['--json', '-t', 'app'])).stdout), {
      digest: quiet.trim(),
      names: ['docker.io/library/app:latest'],
    })
    t.match(
      (await runWherry(['image', 'ls', '--data', place.data])).stdout,
      /docker\.io\/library\/app:latest +[0-9a-f]{12}/,
    )
  })

  await t.test('reads a Dockerfile from stdin, and variables and secrets from the environment', async (t) => {
    const input = 'FROM base\nARG A\nRUN --mount=type=secret,id=s echo "$A $(cat /run/secrets/s)"'
    const result = await runWherry(
      ['build', '--data', place.data, '--build-arg', 'A', '--secret', 'id=s,env=HIDDEN', '-'],
      { input, env: { A: 'from outside', HIDDEN: 'secret' } },
    )
    t.match(result, { code: 0, stderr: /from outside secret/ })
  })

  await t.test('reports the problem, its place and what to do', async (t) => {
    t.match(await place.build('FROM base\n\nRNU echo\n'), {
      code: 1,
      stdout: '',
      stderr:
        /Dockerfile:3: there is no instruction "RNU"; did you mean RUN\?\n\n.*\n.*\n> +3 \| RNU echo\n +\| \^\^\^/,
    })
    t.match(await place.build('FROM base\nRUN echo oh no; exit 7\n'), {
      code: 1,
      stderr:
        /wherry: build: a step failed\n +Dockerfile:2: exited with code 7\n[^]*> +2 \| RUN echo oh no[^]*\| oh no\n/,
    })
    t.match(await place.build('FROM base\n', {}, ['--iidfile', '/nowhere/id']), {
      code: 1,
      stderr: /was built, but --iidfile \/nowhere\/id could not be written/,
    })
    t.match(await place.build('FROM localhost:1/nothing\n'), {
      code: 1,
      stderr: /registry localhost:1 cannot be reached/,
    })
    t.match(await runWherry(['build', '--data', place.data, '/nowhere']), {
      code: 1,
      stderr: /no such folder/,
    })
    t.match(await runWherry(['build', '--data', place.data, '--network', 'bridge', '.']), {
      code: 2,
      stderr: /--network must be host or none/,
    })
    t.match(await runWherry(['build', '--data', place.data, '-t', 'UPPER', '.']), {
      code: 1,
      stderr: /must be lower case/,
    })
    t.match(await runWherry(['build', '--data', place.data, '--secret', 'src=x', '.']), {
      code: 2,
      stderr: /--secret "src=x" must be id=NAME/,
    })
  })

  await t.test('after a kill, the next build removes all that is left', (t) => killed(t, place))
})

/** Number of processes with MARK in their command line. */
function running(mark: string): number {
  const commandOf = (pid: string): string => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
    } catch {
      return '' // it has exited meanwhile
    }
  }
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => commandOf(pid).includes(mark)).length
}

async function killed(t: Test, { data, build }: Place): Promise<void> {
  const context = join(data, 'killed')
  const sleep = `sleep ${1_000_000 + process.pid}` // unique on this machine
  mkdirSync(context)
  writeContext(context, {
    Dockerfile: `FROM base\nRUN --mount=type=secret,id=s --mount=type=cache,target=/c,sharing=locked echo "started"; ${sleep}\n`,
  })
  const child = spawn(
    COMMAND,
    ['build', '--data', data, '--network', 'none', '--secret', 'id=s,env=S', context],
    { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, S: 'x' } },
  )
  const exited = once(child, 'exit')
  let said = ''
  for await (const piece of child.stderr) if (/^#2 [\d.]+ started$/m.test((said += String(piece)))) break
  t.not(running(sleep), 0)
  const secrets = `wherry-secrets-${child.pid}-`
  const findSecrets = (): string[] =>
    ['/run', '/dev/shm'].flatMap((place) => readdirSync(place)).filter((name) => name.startsWith(secrets))
  t.equal(findSecrets().length, 1)
  child.kill('SIGKILL')
  await exited
  t.match(
    await build('FROM base\nRUN --mount=type=cache,target=/c,sharing=locked echo again\n'),
    { code: 0, stderr: /again/ },
    'its lock is released',
  )
  t.equal(running(sleep), 0, 'the container died with its builder')
  t.strictSame(readdirSync(join(data, 'images/tmp')), [], 'no drafts')
  t.strictSame(
    readdirSync(join(data, 'build/run')).filter((name) => name.startsWith('wherry-')),
    [],
    'no containers',
  )
  t.strictSame(findSecrets(), [], 'no secrets')
}

/** The entries of a tar archive as sorted lines "mode uid:gid size path", without times and link targets. */
function listing(tar: Buffer): string[] {
  return execFileSync('tar', ['--numeric-owner', '-tvf', '-'], {
    input: tar,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [mode, owner, size, , , ...name] = line.split(/ +/)
      return `${mode!.replace(/^h/, '-')} ${owner} ${mode!.startsWith('d') || mode!.startsWith('h') ? '' : size} ${name
        .join(' ')
        .replace(/ link to .*/, '')
        .replace(/^\.?\//, '')}`
    })
    .filter(
      (line) =>
        !/ (?:\.\/)?(?:dev|proc|sys|run|etc\/(?:hosts|hostname|resolv\.conf|mtab))(?:\/|$)/.test(line),
    )
    .sort()
}

t.test(
  'an image that wherry built',
  { skip: missing('podman', 'buildah', 'runc', 'skopeo', 'docker-registry') },
  async (t) => {
    const place = await placeFor(t)
    const folder = shortFolder(t)
    const registry = await startRegistry(t)
    const archive = execFileSync('tar', [
      '-C',
      '/etc',
      '--owner=3',
      '--group=4',
      '--mtime=@0',
      '-cf',
      '-',
      'hostname',
    ])
    const files = { 'main.txt': 'hello\n', 'lib/a.js': 'a', 'lib/deep/b.js': 'b', 'archive.tar': archive }
    t.match(await place.build(APP, files, ['-t', `${registry}/app:1`]), { code: 0 })
    t.match(await runWherry(['push', '--data', place.data, `${registry}/app:1`]), { code: 0 })
    const engine = [
      '--root',
      join(folder, 'root'),
      '--runroot',
      join(folder, 'run'),
      '--storage-driver',
      'vfs',
    ]
    const podman = (...args: string[]): string =>
      execFileSync(
        'podman',
        [
          ...engine,
          '--tmpdir',
          join(folder, 'tmp'),
          '--cgroup-manager',
          'cgroupfs',
          '--events-backend',
          'none',
          '--runtime',
          'runc',
          ...args,
        ],
        { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 1 << 28 },
      )
    t.teardown(() => {
      podman('rm', '-fa')
    })
    podman('pull', '--tls-verify=false', `${registry}/app:1`)
    const export_ = (image: string): Buffer => {
      podman(
        'export',
        '-o',
        join(folder, 'exported.tar'),
        podman('create', '--network', 'none', image).trim(),
      )
      return readFileSync(join(folder, 'exported.tar'))
    }

    await t.test('runs with podman, from a registry', async (t) => {
      t.equal(
        podman(
          'run',
          '--rm',
          '--network',
          'none',
          '--ulimit',
          'nofile=1024:1024',
          '--ulimit',
          'nproc=1024:1024',
          `${registry}/app:1`,
        ),
        'HELLO\n',
      )
    })

    await t.test('is what buildah builds from the same files', async (t) => {
      t.match(
        await runWherry(['image', 'save', '--data', place.data, '-o', join(folder, 'base.tar'), 'base']),
        { code: 0 },
      )
      podman('load', '-i', join(folder, 'base.tar'))
      const context = join(folder, 'context')
      mkdirSync(context)
      writeContext(context, { Dockerfile: APP, ...files })
      execFileSync(
        'buildah',
        [
          ...engine,
          'bud',
          '--isolation',
          'chroot',
          '--build-arg',
          'BASE=docker.io/library/base:latest',
          '-t',
          'theirs',
          context,
        ],
        { stdio: 'ignore' },
      )
      t.strictSame(
        listing(export_(`${registry}/app:1`)),
        listing(export_('localhost/theirs')),
        'file by file',
      )
      const configOf = (image: string): Record<string, unknown> =>
        (JSON.parse(podman('inspect', image)) as [{ Config: Record<string, unknown> }])[0].Config
      const { Labels: theirLabels, ...theirs } = configOf('localhost/theirs')
      const { Labels: labels, ...ours } = configOf(`${registry}/app:1`)
      t.strictSame(ours, theirs, 'and the config')
      t.match(theirLabels, labels)
    })
  },
)

// The pure parts of the executing half of builds: specs, copy plans, listings, progress.

import { Readable, Writable } from 'node:stream'
import t from 'tap'
import type { ContextEntry } from '../../services/build/context/context.ts'
import { planCopy, type CopyPlanOptions } from '../../services/build/copy-plan.ts'
import { distinctHighest } from '../../services/build/layer-tool.ts'
import { readRecords } from '../../services/build/layer-listing.ts'
import { createTail, type BuildEvent } from '../../services/build/progress.ts'
import { buildRunSpec, type RunSpecRequest } from '../../services/build/run-spec.ts'
import { parseBuildFlags } from '../../services/cli/build/flags.ts'
import { createBuildProgress } from '../../services/cli/build/progress.ts'
import type { Context } from '../../services/cli/context.ts'
import type { HostFacts } from '../../services/runtime/host-facts.ts'
import { buildPlan } from '../../services/runtime/plan.ts'

const REQUEST: RunSpecRequest = {
  layers: ['/store/points', '/store/a'],
  writable: '/store/draft',
  args: ['/bin/sh', '-c', 'true'],
  env: ['PATH=/bin'],
  cwd: '/',
  user: { uid: 0, gid: 0, additionalGids: [] },
  mounts: [{ destination: '/etc/hosts', type: 'bind', source: '/store/hosts', options: ['ro', 'file'] }],
  network: 'none',
  memoryBytes: 1 << 30,
  cpus: 2,
}
const FACTS: HostFacts = {
  stageDir: '/stage',
  devDir: '/dev-of-slot',
  idBase: 1_000_000,
  idmapFd: 3,
  netnsFd: 4,
  cgroupFd: -1,
  cgroupTasks: [],
  seccomp: new Uint8Array(8),
  rootByWorker: false,
  procPaths: new Map(),
}

t.test('a RUN is a plan whose root is on disk', async (t) => {
  const { ops, netnsFd } = buildPlan(buildRunSpec(REQUEST), FACTS)
  const overlay = ops.find((op) => op.kind === 'mount')
  t.match(overlay?.data, 'lowerdir=l1:l0,upperdir=disk/upper,workdir=disk/work,userxattr')
  t.equal(Number(overlay?.mountFlags) & 2, 0, 'set-user-ID programs work')
  const kinds = ops.map((op) => op.kind)
  t.notOk(kinds.includes('noNewPrivs'))
  t.ok(
    kinds.indexOf('seccomp') < kinds.indexOf('capabilities'),
    'the filter is installed while that is permitted',
  )
  t.ok(
    ops.some((op) => op.kind === 'attach' && op.target === '/etc/hosts' && (op.flags! & 8) !== 0),
    'a file is mounted on a file',
  )
  t.equal(netnsFd, 4)
  t.equal(
    buildPlan(buildRunSpec({ ...REQUEST, network: 'host' }), FACTS).netnsFd,
    -1,
    'the host’s network needs no namespace',
  )
  t.notOk(buildRunSpec({ ...REQUEST, network: 'host' }).linux.namespaces.includes('network'))
  t.throws(() => buildPlan(buildRunSpec({ ...REQUEST, writable: 'relative' }), FACTS), {
    message: /root\.writable/,
  })
})

const entry = (path: string, kind: ContextEntry['kind'] = 'file', mode = 0o644): ContextEntry => ({
  path,
  kind,
  mode,
  sizeBytes: 0,
  mtimeMs: 0,
  identity: '',
  isHidden: false,
})

t.test('copies', async (t) => {
  const options: CopyPlanOptions = {
    destination: '/srv/',
    owner: { uid: 1, gid: 2 },
    keepXattrs: false,
    contentOf: async ({ path }) => `content of ${path}`,
  }
  const selection = {
    layout: 'directory' as const,
    items: [
      { entry: entry('a/d', 'directory', 0o700), name: 'd', isDirect: true },
      { entry: entry('a/d/f'), name: 'd/f', isDirect: false },
    ],
    unmatched: [],
  }
  t.match((await planCopy(selection, options)).operations, [
    { what: 'directory', to: 'srv', owner: { uid: 1, gid: 2 } },
    { what: 'copy', from: 'a/d', to: 'srv/d', mode: 0o700 },
    { what: 'copy', from: 'a/d/f', to: 'srv/d/f' },
  ])
  t.equal(
    (await planCopy(selection, { ...options, destination: '/' })).operations.length,
    2,
    'the root already exists',
  )
  const one = {
    layout: 'file' as const,
    items: [{ entry: entry('a/f'), name: 'f', isDirect: true }],
    unmatched: [],
  }
  t.match(
    (await planCopy(one, { ...options, destination: '/srv/g' })).operations,
    [{ to: 'srv/g', base: 'f' }],
    'unless /srv/g is a directory',
  )
  t.match(
    (await planCopy(one, { ...options, mode: (mode, isDirectory) => (isDirectory ? 0 : mode | 0o111) }))
      .operations,
    [{ mode: 0o755 }],
  )
  const printOf = async (change: Partial<CopyPlanOptions>): Promise<string> =>
    JSON.stringify((await planCopy(one, { ...options, ...change })).fingerprint)
  t.equal(await printOf({}), await printOf({ keepXattrs: false }))
  for (const change of [
    { destination: '/other' },
    { owner: undefined },
    { contentOf: async () => 'other' },
    { mode: () => 0 },
  ])
    t.not(await printOf(change), await printOf({}), Object.keys(change).join())
  t.same(distinctHighest(['a', 'b', 'a', 'c']), ['b', 'a', 'c'])
})

t.test('a listing can arrive in pieces of any size', async (t) => {
  const xattrs = ['user.x', '1', 'y'].join('\0')
  const text = Buffer.from(
    `= ok\nd 755 0 0 0 0 0 0\nf 4711 3 4 5 7 0 ${xattrs.length}\ndir/a b${xattrs}a\nb cl 777 0 0 0 1 6 0\nltarget= missing\n`,
  )
  for (const size of [1, 7, text.length]) {
    const pieces = Array.from({ length: Math.ceil(text.length / size) }, (_, i) =>
      text.subarray(i * size, (i + 1) * size),
    )
    const [first, second] = await readRecords(Readable.from(pieces), true)
    t.match(first, [
      { type: 'directory', path: '', mode: 0o755 },
      { type: 'file', path: 'dir/a b', mode: 0o4711, uid: 3, gid: 4, sizeBytes: 5, digest: /^[0-9a-f]{64}$/ },
      { type: 'link', path: 'l', link: 'target' },
    ])
    t.equal(second, undefined)
  }
  await t.rejects(
    readRecords(Readable.from([Buffer.from('= ok\nf 644 0 0 9 1 0 0\na123')]), true),
    /is truncated/,
  )
  await t.rejects(readRecords(Readable.from([Buffer.from('what?\n')]), false), /unexpected output/)
})

function contextWith(write: (text: string) => void, isTTY = false): Context {
  const stderr = Object.assign(
    new Writable({
      write(chunk: Buffer, _encoding, done) {
        write(chunk.toString())
        done()
      },
    }),
    { isTTY },
  )
  const nothing = (): void => {}
  return {
    env: {},
    stdin: Readable.from([]),
    stdout: new Writable(),
    stderr,
    tellParent: nothing,
    onSignal: () => nothing,
    setExitCode: nothing,
  }
}

t.test('the progress of a build', async (t) => {
  const events: BuildEvent[] = [
    { kind: 'started', number: 1, title: '[1/1] RUN x' },
    { kind: 'output', number: 1, bytes: Buffer.from('one\r\ntw') },
    { kind: 'output', number: 1, bytes: Buffer.from('o\u001b[2J') },
    { kind: 'done', number: 1, isCached: false, tookMs: 1234 },
    { kind: 'warning', text: 'careful' },
  ]
  for (const isTTY of [false, true]) {
    let shown = ''
    const progress = createBuildProgress(
      contextWith((text) => {
        shown += text
      }, isTTY),
      undefined,
    )
    for (const event of events) progress.onEvent(event)
    progress.end()
    t.notOk(shown.includes('\u001b[2J'), 'output of a step cannot control the terminal')
    if (isTTY) t.match(shown, /=> 1\.2s \[1\/1\] RUN x\n[^]*warning: careful\n/)
    else
      t.match(
        shown,
        /^#1 \[1\/1\] RUN x\n#1 [\d.]+ one\n#1 [\d.]+ two�\[2J\n#1 DONE 1\.2s\n\nwarning: careful\n$/,
      )
  }
  await t.test('a repainted line takes one row even with wide characters; a warning is never cut', (t) => {
    const columns = 40
    let shown = ''
    const { stderr, ...others } = contextWith((text) => {
      shown += text
    }, true)
    const progress = createBuildProgress({ ...others, stderr: Object.assign(stderr, { columns }) }, undefined)
    const warning = 'careful '.repeat(20)
    for (const event of [
      { kind: 'started', number: 1, title: `[1/1] RUN ${'日本語'.repeat(20)}` },
      { kind: 'output', number: 1, bytes: Buffer.from(`${'🎉'.repeat(60)}\n${'e\u0301'.repeat(60)}\n`) },
      { kind: 'warning', text: warning },
      { kind: 'done', number: 1, isCached: false, tookMs: 1 },
    ] as const)
      progress.onEvent(event)
    progress.end()
    const lines = shown.split('\n')
    const wide = lines.filter((line) => /日|🎉/u.test(line))
    t.equal(wide.length, 4, 'started, with output, and done')
    // oxlint-disable-next-line no-control-regex
    for (const line of wide)
      t.ok(
        [...line.replaceAll(/\u001b\[\d*[AJ]/g, '')].reduce(
          (sum, character) => sum + (character > '\u2e80' ? 2 : 1),
          0,
        ) < columns,
        line,
      )
    t.ok(
      lines.some((line) => line.includes('e\u0301'.repeat(30))),
      'combining marks take no columns',
    )
    t.ok(shown.includes(`warning: ${warning}\n`))
    t.end()
  })
  await t.test('nothing is repainted while layers of a base image are painted below', (t) => {
    let shown = ''
    const timers = (): number => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
    const before = timers()
    const progress = createBuildProgress(
      contextWith((text) => {
        shown += text
      }, true),
      undefined,
    )
    progress.onEvent({ kind: 'started', number: 1, title: '[base] FROM x' })
    t.equal(timers(), before + 1)
    progress.hold()
    t.equal(timers(), before)
    progress.onEvent({ kind: 'done', number: 1, isCached: false, tookMs: 1000 })
    progress.end()
    t.equal(timers(), before)
    t.match(shown, /^=> \[base\] FROM x {2}0\.0s\n=> 1\.0s \[base\] FROM x\n$/)
    t.end()
  })
  await t.test('of a progress bar that overwrites itself, only the last state is shown', (t) => {
    let shown = ''
    const progress = createBuildProgress(
      contextWith((text) => {
        shown += text
      }),
      undefined,
    )
    progress.onEvent({ kind: 'started', number: 1, title: 'x' })
    progress.onEvent({ kind: 'output', number: 1, bytes: Buffer.from('10 %\r20 %\r100 %\r\nnext\r\n') })
    progress.end()
    t.match(shown, /^#1 x\n#1 [\d.]+ 100 %\n#1 [\d.]+ next\n$/)
    t.end()
  })
  const tail = createTail()
  for (let i = 0; i < 10_000; i++) tail.add(Buffer.from(`line ${i}\n`))
  t.same(tail.lines().at(-1), 'line 9999')
  t.equal(tail.lines().length, 20)
})

t.test('options', async (t) => {
  const parse = (flags: object, env = {}) => parseBuildFlags({ cache: true, ...flags }, env)
  t.match(
    parse(
      {
        tag: ['a', 'localhost:5000/b:c', 'a'],
        buildArg: ['A=1=2', 'B', 'C'],
        label: ['l'],
        memory: '1Gi',
        platform: 'arm64',
      },
      { B: 'b' },
    ),
    {
      names: ['docker.io/library/a:latest', 'localhost:5000/b:c'],
      buildArgs: new Map([
        ['A', '1=2'],
        ['B', 'b'],
      ]),
      labels: new Map([['l', '']]),
      memoryBytes: 1 << 30,
      network: 'host',
      platform: { architecture: 'arm64' },
    },
  )
  t.equal(parse({}, { SOURCE_DATE_EPOCH: '12' }).clampSeconds, 12)
  t.equal(parse({ buildArg: ['SOURCE_DATE_EPOCH=13'] }, { SOURCE_DATE_EPOCH: '12' }).clampSeconds, 13)
  t.same(
    [...parse({ secret: ['id=a,env=A', 'id=B'] }, { A: 'x', B: 'y' }).secrets].map(([id, value]) => [
      id,
      Buffer.from(value).toString(),
    ]),
    [
      ['a', 'x'],
      ['B', 'y'],
    ],
  )
  const wrong: ReadonlyArray<readonly [object, RegExp]> = [
    [{ tag: [`a@sha256:${'0'.repeat(64)}`] }, /digest/],
    [{ buildArg: ['=x'] }, /no name/],
    [{ memory: '1' }, /--memory/],
    [{ memory: 'lots' }, /--memory/],
    [{ platform: 'windows' }, /--platform/],
    [{ secret: ['id=a,nonsense=1'] }, /--secret/],
    [{ secret: ['id=a,env=A'] }, /not set/],
    [{ secret: ['id=a,src=/nowhere'] }, /could not read the secret/],
    [{ progress: 'fancy' }, /--progress/],
    [{ network: 'x' }, /--network/],
  ]
  for (const [flags, message] of wrong) t.throws(() => parse(flags), message, JSON.stringify(flags))
  t.throws(() => parse({}, { SOURCE_DATE_EPOCH: 'soon' }), /SOURCE_DATE_EPOCH/)
})

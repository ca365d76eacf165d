// Stages and steps: which stages a target needs, where ARG and ENV get their values, how each instruction
// changes the config, triggers, modes and owners. Configs were compared with those of buildah.

import t from 'tap'
import { InvalidRequest } from '../../services/contract/errors.ts'
import {
  EMPTY_CONFIG,
  readBuildConfig,
  writeBuildConfig,
  type BuildConfig,
} from '../../services/build/dockerfile/build-config.ts'
import { planBuild, stageMeant, type BuildPlan } from '../../services/build/dockerfile/build-plan.ts'
import { applyChmod, parseChmod } from '../../services/build/dockerfile/chmod.ts'
import { parseDockerfile } from '../../services/build/dockerfile/dockerfile.ts'
import { EMPTY_START, evaluateStage, unusedBuildArgs } from '../../services/build/dockerfile/evaluate.ts'
import { formatPlatform, parsePlatform } from '../../services/build/dockerfile/platform.ts'
import type { EvaluatedStage, StageStart, Step } from '../../services/build/dockerfile/steps.ts'

const AMD64 = { os: 'linux', architecture: 'amd64' }
const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

interface Options {
  readonly target?: string
  readonly args?: Readonly<Record<string, string>>
  readonly base?: Partial<BuildConfig>
}

function plan(text: string, { target, args = {} }: Options = {}): BuildPlan {
  return planBuild(parseDockerfile('Dockerfile', text), {
    buildArgs: new Map(Object.entries(args)),
    platform: { os: 'linux', architecture: 'arm64' },
    buildPlatform: AMD64,
    ...(target !== undefined && { target }),
  })
}

/** The target's stage, after its parent stages; images have the config of OPTIONS. */
function evaluate(text: string, options: Options = {}): EvaluatedStage & { plan: BuildPlan } {
  const planned = plan(text, options)
  const image: StageStart = { ...EMPTY_START, name: 'base', config: { ...EMPTY_CONFIG, ...options.base } }
  const ends = new Map<number, EvaluatedStage>()
  for (const index of planned.needed) {
    const { base } = planned.stages[index]!
    ends.set(
      index,
      evaluateStage(
        planned,
        index,
        base.kind === 'stage' ? ends.get(base.index)!.end : base.kind === 'image' ? image : EMPTY_START,
      ),
    )
  }
  return { ...ends.get(planned.target)!, plan: planned }
}

const configOf = (text: string, options: Options = {}): BuildConfig =>
  evaluate(`FROM scratch\n${text}`, options).end.config
const stepsOf = (text: string, options: Options = {}): readonly Step[] =>
  evaluate(`FROM scratch\n${text}`, options).steps
const rulesOf = (text: string, options: Options = {}): string[] =>
  evaluate(`FROM scratch\n${text}`, options).plan.warnings.map(({ rule }) => rule)

function faultOf(act: () => unknown): string {
  try {
    act()
  } catch (err) {
    if (err instanceof InvalidRequest && err.code === 'ERR_INVALID_DOCKERFILE') return err.message
    throw err
  }
  return 'nothing is wrong'
}

t.test('only stages that the target needs are built', async (t) => {
  const text =
    'FROM a AS one\nFROM b AS two\nCOPY --from=one /x /y\nFROM c AS three\nFROM two AS four\nRUN --mount=from=0,target=/m x\nFROM scratch\nCOPY --from=four / /'
  t.same(plan(text).needed, [0, 1, 3, 4])
  t.same(plan(text, { target: 'three' }).needed, [2])
  t.same(plan(text, { target: 'TWO' }).needed, [0, 1])
  t.same(plan(text, { target: '0' }).needed, [0])
  t.match(
    plan(text).stages.map(({ title, base }) => [title, base]),
    [
      ['one', { kind: 'image', reference: 'a' }],
      ['two', { kind: 'image', reference: 'b' }],
      ['three', {}],
      ['four', { kind: 'stage', index: 1 }],
      ['stage-4', { kind: 'scratch' }],
    ],
  )
  t.match(
    faultOf(() => plan(text, { target: 'thre' })),
    /no stage "thre"; did you mean three\?/,
  )
  t.match(
    faultOf(() => plan(text, { target: '9' })),
    /its stages are one, two, three, four/,
  )
  t.same(
    plan('FROM a AS p\nONBUILD COPY --from=q /x /\nFROM b AS q\nFROM p').needed,
    [0, 1, 2],
    'the source of a parent’s trigger',
  )
})

t.test('a stage can only copy from stages above it', async (t) => {
  for (const [text, why] of [
    ['FROM a AS b\nCOPY --from=b x y', /cannot copy from itself/],
    ['FROM a AS b\nCOPY --from=0 x y', /cannot copy from itself/],
    ['FROM a\nCOPY --from=c x y\nFROM d AS c', /"c" comes later/],
    ['FROM a\nCOPY --from=1 x y\nFROM d', /"1" comes later/],
    ['FROM a\nCOPY --from=7 x y', /no stage 7; the stages are 0 to 0/],
    ['FROM a\nCOPY --from=UP:x:y x y', /not an image reference/],
    ['FROM a\nRUN --mount=from=c,target=/m x\nFROM d AS c', /"c" comes later/],
    ['FROM Bad/IMAGE', /not an image reference/],
    ['FROM $x', /"\$x" is empty.*--build-arg/],
    ['FROM --platform=linux/vax a', /not a valid platform/],
    ['FROM ${x', /cannot be expanded/],
  ] as const)
    t.match(
      faultOf(() => plan(text)),
      why,
      text,
    )
  t.match(plan('FROM a AS builder\nFROM b\nCOPY --from=bilder x y').stages[1], { dependencies: [] })
  t.match(
    evaluate('FROM a AS builder\nFROM b\nCOPY --from=bilder x y').steps,
    [{ from: { kind: 'image', reference: 'bilder' } }],
    'a misspelled stage is an image',
  )
  t.equal(
    stageMeant(plan('FROM a AS builder\nFROM b').stages, 'bilder'),
    'did you mean the stage builder?',
    'and a similar stage is suggested if the image is missing',
  )
  t.match(plan('FROM later\nFROM a AS later'), {
    stages: [{ base: { kind: 'image' } }],
    warnings: [{ rule: 'StageComesLater' }],
  })
  t.match(
    plan('FROM a AS b\nFROM c AS b\nFROM b').stages[2]!.base,
    { index: 1 },
    'of two with the same name the later one counts',
  )
})

t.test('ARGs before FROM apply to FROM, and are defaults of ARGs in stages', async (t) => {
  const text =
    'ARG V=1\nARG IMAGE=a:${V}\nFROM --platform=$BUILDPLATFORM $IMAGE\nARG V\nARG TARGETARCH\nARG W=${V}w\nLABEL v=$V t=$TARGETARCH w=$W i=$IMAGE'
  const stage = evaluate(text)
  t.match(stage.plan.stages[0], { base: { reference: 'a:1' }, platform: AMD64 })
  t.same(
    [...stage.end.config.labels],
    [
      ['v', '1'],
      ['t', 'arm64'],
      ['w', '1w'],
      ['i', ''],
    ],
  )
  t.match(stage.plan.warnings, [
    { rule: 'UndefinedVar', text: /"IMAGE" is not set; add ARG IMAGE to this stage/ },
  ])
  t.match(evaluate(text, { args: { V: '2' } }), { plan: { stages: [{ base: { reference: 'a:2' } }] } })
  t.same(
    [...configOf('ARG a=1\nLABEL a=$a b=${b:-x}', { args: { a: '2', b: 'no' } }).labels],
    [
      ['a', '2'],
      ['b', 'x'],
    ],
    'a build-arg without an ARG has no effect',
  )
  t.same([...configOf('ARG a=1 b=$a\nLABEL b=$b').labels], [['b', '1']])
  t.same([...configOf('ENV x=env\nARG x=arg\nLABEL x=$x').labels], [['x', 'env']], 'ENV beats ARG')
  t.same([...configOf('ARG x=arg\nENV x=env\nLABEL x=$x').labels], [['x', 'env']])
  t.same([...configOf('ARG x=arg\nENV y=$x\nLABEL y=$y', { args: { x: 'given' } }).labels], [['y', 'given']])
  t.match(
    evaluate('FROM a AS p\nARG x=1\nFROM p\nLABEL x=$x').end.config.labels,
    new Map([['x', '1']]),
    'a child stage has its parent’s ARGs',
  )
  t.match(
    evaluate('FROM a AS p\nARG x=1\nFROM a\nLABEL x=$x').end.config.labels,
    new Map([['x', '']]),
    'no other stage has',
  )
  t.match(plan('FROM ${BASE:-a}').warnings, [])
  t.match(plan('FROM a$SUFFX').warnings, [{ rule: 'UndefinedArgInFrom' }])
  t.match(
    faultOf(() => plan('FROM a:$VERSION1')),
    /"" is not a tag; "VERSION1" is not set/,
  )
})

t.test('unused build-args are reported', async (t) => {
  const stage = evaluate('ARG a\nFROM b\nONBUILD ARG c\nARG d', {
    args: {
      a: '',
      c: '',
      d: '',
      e: '',
      HTTP_PROXY: '',
      TARGETARCH: '',
      BUILDKIT_INLINE_CACHE: '',
      SOURCE_DATE_EPOCH: '',
    },
  })
  t.same(unusedBuildArgs(stage.plan, stage.declaredArgs), ['e'])
  t.same(unusedBuildArgs(stage.plan, ['e']), [])
})

t.test('RUN has its shell, environment, directory and user', async (t) => {
  t.match(
    stepsOf('ENV A=1\nARG B=2 A=no\nWORKDIR /w\nUSER u\nRUN echo $A "$B"', { args: { http_proxy: 'p' } }).at(
      -1,
    ),
    {
      kind: 'run',
      argv: ['/bin/sh', '-c', 'echo $A "$B"'],
      env: ['B=2', PATH, 'A=1'],
      proxyEnv: ['http_proxy=p'],
      workingDir: '/w',
      user: 'u',
      network: 'default',
      mounts: [],
      title: 'RUN echo 1 "2"',
      createdBy: 'RUN |1 B=2 /bin/sh -c echo $A "$B"',
    },
  )
  t.match(stepsOf('SHELL ["/bin/bash", "-c"]\nRUN a\nRUN ["b", "c"]').slice(1), [
    { argv: ['/bin/bash', '-c', 'a'] },
    { argv: ['b', 'c'] },
  ])
  t.match(stepsOf('RUN <<EOF\na $x\nb\nEOF'), [{ argv: ['/bin/sh', '-c', 'a $x\nb\n'] }])
  t.match(stepsOf('RUN <<-E\n\ta\nE'), [{ argv: ['/bin/sh', '-c', 'a\n'] }])
  t.match(stepsOf('RUN <<E\n#!/usr/bin/env python3\nprint()\nE'), [
    {
      argv: ['/dev/pipes/E'],
      script: { path: '/dev/pipes/E', content: '#!/usr/bin/env python3\nprint()\n' },
    },
  ])
  t.match(
    stepsOf('RUN <<../../e\n#!x\n../../e'),
    [{ script: { path: '/dev/pipes/script' } }],
    'a name cannot lead elsewhere',
  )
  t.match(stepsOf('RUN cat <<A - <<B >x\n1\nA\n2\nB'), [
    { argv: ['/bin/sh', '-c', 'cat <<A - <<B >x\n1\nA\n2\nB'] },
  ])
  t.match(
    faultOf(() => stepsOf(`RUN <<E\n${'x'.repeat(60_000)}\n${'x'.repeat(60_000)}\n${'x'.repeat(60_000)}\nE`)),
    /longer than 131071 bytes; start the heredoc with #!/,
  )
  t.match(
    faultOf(() => stepsOf('RUN []')),
    /needs a command/,
  )
})

t.test('mounts have absolute targets, values and sources', async (t) => {
  const mounts = (text: string): unknown =>
    evaluate(`FROM a AS one\nFROM b\nWORKDIR /w\nARG ID=i\n${text}`).steps.flatMap((step) =>
      step.kind === 'run' ? step.mounts : [],
    )
  t.match(mounts('RUN --mount=type=cache,target=/c x'), [
    {
      type: 'cache',
      id: '/c',
      targetPath: '/c',
      from: { kind: 'scratch' },
      sharing: 'shared',
      isReadOnly: false,
      mode: 0o755,
      uid: 0,
      gid: 0,
    },
  ])
  t.match(
    mounts(
      'RUN --mount=type=cache,target=c,id=$ID,sharing=locked,mode=0700,uid=1,gid=2,from=one,source=/s,ro x',
    ),
    [
      {
        id: 'i',
        targetPath: '/w/c',
        from: { kind: 'stage', index: 0 },
        source: '/s',
        sharing: 'locked',
        isReadOnly: true,
        mode: 0o700,
        uid: 1,
        gid: 2,
      },
    ],
  )
  t.match(mounts('RUN --mount=target=. --mount=type=bind,from=img:1,source=../a,dst=/d,rw x'), [
    { type: 'bind', targetPath: '/w', from: { kind: 'context' }, source: '/', isReadOnly: true },
    { from: { kind: 'image', reference: 'img:1' }, source: '/a', isReadOnly: false },
  ])
  t.match(mounts('RUN --mount=type=tmpfs,target=/t,size=64m x'), [
    { type: 'tmpfs', targetPath: '/t', sizeBytes: 64 * 1024 ** 2 },
  ])
  t.match(
    mounts(
      'RUN --mount=type=secret,id=s --mount=type=secret,id=e,env=E,required --mount=type=secret,target=/run/k,mode=0444 x',
    ),
    [
      { type: 'secret', id: 's', targetPath: '/run/secrets/s', isRequired: false, mode: 0o400 },
      { id: 'e', env: 'E', targetPath: undefined, isRequired: true },
      { id: 'k', targetPath: '/run/k', mode: 0o444 },
    ],
  )
  for (const [text, why] of [
    ['type=cache,target=/c,mode=$ID', /"i" is not a valid mode/],
    ['type=secret', /no id/],
    ['type=secret,id=a,source=b', /either an id or a source/],
    ['type=tmpfs', /no target/],
    ['type=cache', /no target/],
    ['type=bind,target=/', /cannot mount on "\/"/],
    ['target=/a,uid=1', /no "uid"/],
    ['type=cache,target=/c,uid=4294967295', /not a valid uid/],
    ['type=cache,target=/c,sharing=loked', /did you mean locked\?/],
    ['type=tmpfs,target=/t,size=big', /not a valid size/],
    ['target=/a,from=$ID', /variables are not allowed/],
    ['target=/a,ro=maybe', /true or false/],
    ['target', /has no value/],
  ] as const)
    t.match(
      faultOf(() => mounts(`RUN --mount=${text} x`)),
      why,
      text,
    )
})

t.test('COPY and ADD have expanded values, absolute destinations and checked sources', async (t) => {
  const step = (text: string): Step => stepsOf(`WORKDIR /w\nENV D=dir\n${text}`).at(-1)!
  t.match(step('COPY --chown=$D:1 --chmod=0644 a$D ../b $D/'), {
    kind: 'copy',
    sources: ['adir', 'b'],
    destination: '/w/dir',
    isIntoDirectory: true,
    chown: 'dir:1',
    chmod: { kind: 'octal', mode: 0o644 },
    from: { kind: 'context' },
    title: 'COPY --chown=dir:1 --chmod=0644 adir ../b dir/',
    createdBy: 'COPY --chown=dir:1 --chmod=0644 adir ../b dir/',
  })
  for (const [destination, wanted, isInto] of [
    ['.', '/w', true],
    ['./', '/w', true],
    ['..', '/', true],
    ['x', '/w/x', false],
    ['/x/', '/x', true],
    ['/', '/', true],
    ['/a/../b', '/b', false],
    ['../../..', '/', true],
    ['x.', '/w/x.', false],
  ] as const) {
    t.match(step(`COPY a ${destination}`), { destination: wanted, isIntoDirectory: isInto }, destination)
  }
  t.match(step('COPY / /x'), { sources: [''] })
  t.match(step('COPY --parents a/./b/../c/*.txt /x'), { sources: ['a/./c/*.txt'], keepsParents: true })
  t.match(step('COPY <<E <<"F" /x/\n$D \\$D\nE\n$D\nF'), {
    files: [
      { name: 'E', content: 'dir $D\n' },
      { name: 'F', content: '$D\n' },
    ],
    sources: [],
  })
  t.match(step('ADD --unpack=true https://h/a/b.tgz?q x.tar /d/'), {
    kind: 'add',
    urls: [{ url: 'https://h/a/b.tgz?q', name: 'b.tgz' }],
    sources: ['x.tar'],
    unpacksLocal: true,
    unpacksRemote: true,
  })
  t.match(step('ADD https://h/ /d'), { urls: [{ name: '' }], unpacksRemote: false })
  for (const [text, why] of [
    ['COPY a b /c', /several sources.*"\/c\/"/],
    ['COPY <<E b /c\nE', /several sources/],
    ['COPY $NONE /c', /"\$NONE" is empty/],
    ['COPY https://h/x /c', /does not support URLs; use ADD/],
    ['ADD git@h:x.git /c', /does not support git/],
    ['ADD https://h/x.git#main /c', /does not support git/],
    ['ADD https://h/ /c/', /has no file name/],
    ['ADD https://h/%2e%2e%2f /c/', /has no file name/],
    ['ADD --checksum=md5:x https://h/x /c', /not a valid checksum/],
    [`ADD --checksum=sha256:${'a'.repeat(64)} x /c`, /requires exactly one source/],
    ['COPY --chmod=999 a /c', /not a valid mode/],
    ['COPY --chown=4294967296 a /c', /not a valid owner/],
    ['COPY --chown=a:b:c a /c', /not a valid owner/],
    ['COPY --chown=-1 a /c', /not a valid owner/],
    ['COPY --from=scratch a /c', /scratch has no files/],
  ] as const)
    t.match(
      faultOf(() => step(text)),
      why,
      text,
    )
})

t.test('instructions change the config as Docker does', async (t) => {
  t.same(
    configOf('ENV A=1 B="two words"\nENV C=\'$A\' D=$A$B E="${A:-x}"\nENV A=2 F=$A').env,
    [PATH, 'A=2', 'B=two words', 'C=$A', 'D=1two words', 'E=1', 'F=1'],
    'an instruction uses the values before it',
  )
  t.match(
    configOf(
      'WORKDIR /a\nWORKDIR b/../c\nUSER u:g\nSTOPSIGNAL SIGRTMIN+3\nMAINTAINER me\nVOLUME /v $none/w /v\nEXPOSE 80 90-91/UDP 80\nHEALTHCHECK CMD x',
    ),
    {
      workingDir: '/a/c',
      user: 'u:g',
      stopSignal: 'SIGRTMIN+3',
      author: 'me',
      volumes: ['/v', '/w'],
      exposedPorts: ['80/tcp', '90/udp', '91/udp'],
      healthcheck: { test: ['CMD-SHELL', 'x'] },
    },
  )
  t.same(
    [...configOf('LABEL a=1 __proto__=2\nLABEL a=3').labels],
    [
      ['a', '3'],
      ['__proto__', '2'],
    ],
  )
  t.same(configOf('CMD a b').cmd, ['/bin/sh', '-c', 'a b'])
  t.same(configOf('SHELL ["s"]\nENTRYPOINT e\nCMD ["c"]'), {
    ...EMPTY_CONFIG,
    env: [PATH],
    shell: ['s'],
    entrypoint: ['s', 'e'],
    cmd: ['c'],
  })
  const base = { cmd: ['base'], entrypoint: ['base'], env: ['PATH=/mine', 'X=1'] }
  t.match(
    evaluate('FROM a\nENTRYPOINT ["e"]', { base }).end.config,
    { cmd: undefined, entrypoint: ['e'], env: ['PATH=/mine', 'X=1'] },
    'a new ENTRYPOINT removes the base’s CMD',
  )
  t.match(evaluate('FROM a\nCMD ["c"]\nENTRYPOINT ["e"]', { base }).end.config, {
    cmd: ['c'],
    entrypoint: ['e'],
  })
  t.match(evaluate('FROM a\nENTRYPOINT []', { base }).end.config, { entrypoint: undefined, cmd: undefined })
  for (const [text, why] of [
    ['ENV $none=1', /"" is not a valid name/],
    ['WORKDIR $none', /is empty/],
    ['STOPSIGNAL SIGNOPE', /not a signal/],
    ['STOPSIGNAL 0', /not a signal/],
    ['EXPOSE 70000', /not a valid port/],
    ['EXPOSE 9-8', /not a valid port/],
    ['EXPOSE 80/xyz', /not a protocol/],
    ['VOLUME $none', /needs a path/],
    ['ENV a="${b:?set b}"', /b: set b/],
    ["ENV a='b", /' is not closed/],
  ] as const)
    t.match(
      faultOf(() => configOf(text)),
      why,
      text,
    )
  t.same(
    rulesOf('COPY ../a /b\nCOPY /a ./c/../d /e/\nADD c/../../d https://x.example/../y /f/'),
    ['SourceAboveContext', 'SourceAboveContext'],
    'where the path is shortened',
  )
  t.same(rulesOf('WORKDIR a\nCMD b\nENV p=$none\nEXPOSE 1.2.3.4:80:81'), [
    'WorkdirRelativePath',
    'JSONArgsRecommended',
    'UndefinedVar',
    'ExposeInvalidFormat',
  ])
})

t.test('a Dockerfile cannot make the config grow without limit', async (t) => {
  const doubling = Array.from({ length: 40 }, (_, i) => `ENV v${i + 1}=$v${i}$v${i}`).join('\n')
  t.match(
    faultOf(() => configOf(`ENV v0=${'x'.repeat(1000)}\n${doubling}`)),
    /longer than/,
  )
  const wide = `ENV v=${'x'.repeat(60_000)}\n${Array.from({ length: 600 }, (_, i) => `ENV w${i}=$v`).join('\n')}`
  t.match(
    faultOf(() => configOf(wide)),
    /too many or too long/,
  )
  t.match(
    faultOf(() => configOf(Array.from({ length: 1000 }, (_, i) => `EXPOSE 1-65000 ${i}/udp`).join('\n'))),
    /too many or too long/,
  )
  t.equal(
    configOf(Array.from({ length: 1500 }, (_, i) => `ENV a${i}=b`).join('\n')).env.length,
    1501,
    'realistic values fit',
  )
  t.equal(
    configOf(`EXPOSE 1-65000\n${Array.from({ length: 10 }, (_, i) => `EXPOSE ${i}/udp`).join('\n')}`)
      .exposedPorts.length,
    65_010,
    'and all ports',
  )
})

t.test('triggers run first in the child, with its variables, and only once', async (t) => {
  const child = evaluate('FROM a AS tools\nFROM base\nRUN own', {
    base: { onbuild: ['ARG V=1', 'COPY --from=tools /x /y', 'ENV V2=$V'] },
    args: { V: '2' },
  })
  t.match(child.steps, [
    { kind: 'config', isTrigger: true },
    { kind: 'copy', isTrigger: true, from: { kind: 'stage', index: 0 } },
    { isTrigger: true },
    { kind: 'run', isTrigger: false },
  ])
  t.match(child, {
    end: { config: { onbuild: [], env: [PATH, 'V2=2'] } },
    dependencies: [0],
    declaredArgs: ['V'],
  })
  t.match(
    evaluate('FROM a AS p\nONBUILD ENV x=1\nFROM p AS q\nFROM q').end.config,
    { onbuild: [], env: [PATH, 'x=1'] },
    'of a parent stage, too, and once',
  )
  t.match(
    faultOf(() => evaluate('FROM base', { base: { onbuild: ['COPPY a b'] } })),
    /^ONBUILD of base:1: .*did you mean COPY/,
  )
})

t.test('an image’s config is read as untrusted and written without empty fields', async (t) => {
  const json = {
    author: 'me',
    config: {
      Env: ['a=b', 7],
      Cmd: null,
      Entrypoint: ['e'],
      Labels: JSON.parse('{"x":"y","n":1,"__proto__":"p"}'),
      ExposedPorts: { '80/tcp': {} },
      Volumes: { '/v': {} },
      OnBuild: ['RUN a'],
      WorkingDir: '/w',
      Healthcheck: { Test: ['NONE'], Interval: 'x' },
    },
  }
  const config = readBuildConfig(json)
  t.match(config, {
    env: ['a=b'],
    entrypoint: ['e'],
    exposedPorts: ['80/tcp'],
    volumes: ['/v'],
    onbuild: ['RUN a'],
    workingDir: '/w',
    author: 'me',
    user: '',
  })
  t.equal('cmd' in config, false)
  t.equal(
    JSON.stringify(writeBuildConfig(config)),
    '{"ExposedPorts":{"80/tcp":{}},"Env":["a=b"],"Entrypoint":["e"],"Volumes":{"/v":{}},"WorkingDir":"/w","Labels":{"__proto__":"p","x":"y"},"Healthcheck":{"Test":["NONE"]},"OnBuild":["RUN a"]}',
  )
  for (const value of [null, 7, [], { config: 'x' }, { config: { Env: 'x', Labels: [] } }])
    t.same(readBuildConfig(value), EMPTY_CONFIG)
  t.throws(() => readBuildConfig({ config: { Env: Array.from({ length: 20_000 }, () => 'a=b') } }), {
    code: 'ERR_CONTENT_LIMIT',
  })
})

t.test('modes change as with chmod', async (t) => {
  for (const [text, before, after, isDirectory] of [
    ['755', 0o600, 0o755],
    ['04755', 0, 0o4755],
    ['u+x', 0o644, 0o744],
    ['+x', 0o644, 0o755],
    ['a-w', 0o666, 0o444],
    ['u=rwX,go=rX', 0o600, 0o644],
    ['u=rwX,go=rX', 0o700, 0o755],
    ['go=rX', 0o600, 0o655, true],
    ['g=u', 0o640, 0o660],
    ['u+s,g+s,+t', 0o755, 0o7755],
    ['o=', 0o777, 0o770],
    ['u-x+w', 0o555, 0o655],
    ['=r', 0o777, 0o444],
    ['u=', 0o4755, 0o055],
  ] as const)
    t.equal(applyChmod(parseChmod(text)!, before, isDirectory ?? false).toString(8), after.toString(8), text)
  for (const text of ['', 'x', '8', '17777', 'u+y', 'u', 'z+x', '+x,', '+x '.repeat(2)])
    t.equal(parseChmod(text), undefined, text)
})

t.test('platforms are accepted in all spellings', async (t) => {
  for (const [text, wanted] of [
    ['amd64', 'linux/amd64'],
    ['linux/x86_64', 'linux/amd64'],
    ['linux/arm64/v8', 'linux/arm64'],
    ['aarch64', 'linux/arm64'],
    ['linux/arm', 'linux/arm/v7'],
    ['linux/arm/v6', 'linux/arm/v6'],
    ['linux/arm/7', 'linux/arm/v7'],
    ['riscv64', 'linux/riscv64'],
  ] as const) {
    t.equal(formatPlatform(parsePlatform(text)!), wanted, text)
  }
  for (const text of ['', 'linux', 'windows/amd64', 'linux/vax', 'linux/amd64/v1/x', 'constructor'])
    t.equal(parsePlatform(text), undefined, text)
})

// wherry.yaml, stack.yaml and the templates of `wherry init`, as values: what a file means, and how it is
// refused.

import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import t from 'tap'
import type { Context } from '../../services/cli/context.ts'
import { runProgram } from '../../services/cli/program.ts'
import { readProject, substituteVariables } from '../../services/cli/project/project-file.ts'
import { InvalidRequest } from '../../services/contract/errors.ts'
import { parseDeployment } from '../../services/contract/deployment.ts'
import { parseProjectFile } from '../../services/contract/project-file.ts'

const faultsOf = (parsed: unknown): string[] => {
  try {
    parseProjectFile(parsed)
    return []
  } catch (err) {
    if (err instanceof InvalidRequest) return err.faults.map((f) => `${f.path}: ${f.problem}`)
    throw err
  }
}

t.test('wherry.yaml', async (t) => {
  t.test('says what to deploy, and what to build from where', async (t) => {
    const [one, two] = parseProjectFile({
      functions: {
        one: { build: '.', timeout: '5s', limits: { memory: '32Mi' } },
        two: {
          image: 'registry.example/two:2',
          build: { context: 'two', dockerfile: 'D', target: 'last', args: { A: 1, B: true } },
        },
      },
    })
    t.same(one, {
      name: 'one',
      image: 'one',
      build: { context: '.', args: {} },
      deployment: { service: 'one', timeout: '5s', limits: { memory: '32Mi' } },
      environmentFiles: [],
      notes: [],
    })
    t.same(two?.build, { context: 'two', dockerfile: 'D', target: 'last', args: { A: '1', B: 'true' } })
  })
  t.test('reports every wrong field at once', async (t) => {
    t.same(faultsOf({ functions: { one: { build: 7, service: 'x', envVars: { A: [] } } } }), [
      'functions.one.build: must be the path of a folder or { context, dockerfile, target, args }',
      'functions.one.envVars.A: must be a string, a number, true or false',
      'functions.one.service: must be left out; the key above is the name',
    ])
    t.same(faultsOf({ functions: {} }), ['functions: must have at least one function'])
    t.same(faultsOf({ functions: [1] }), ['functions: must be an object'])
    t.same(faultsOf({ functions: { one: { image: 5 } } }), ['functions.one.image: must be a string'])
    t.same(faultsOf({ function: {} }).toSorted(), ['function: is not a known field', 'functions: is missing'])
    for (const nothing of [null, 'text', 3, []])
      t.same(
        faultsOf(nothing),
        [': must have "functions:" with a name and fields for each'],
        JSON.stringify(nothing),
      )
  })
})

const STACK = `version: 1.0
provider:
  name: openfaas
  gateway: http://127.0.0.1:8080
functions:
  figlet:
    lang: dockerfile
    handler: ./figlet
    image: \${OWNER:-me}/figlet:0.1   # \${NOT_A_VARIABLE}
    fprocess: "figlet -w 80"
    environment:
      write_debug: true
      combine_output: "false"
      empty:
    environment_file:
      - env.yml
    labels: { com.openfaas.scale.min: 1 }
    limits: { memory: 40Mi, cpu: 100m }
    requests: { memory: 20Mi }
    readonly_root_filesystem: true
    build_args: { ADDITIONAL_PACKAGE: curl }
    build_options: [dev]
  ready:
    image: ghcr.io/openfaas/alpine:latest
    skip_build: true
  templated:
    lang: node20
    handler: ./templated
    image: templated
`

t.test('stack.yaml of OpenFaaS is accepted unchanged', async (t) => {
  const folder = t.testdir({
    'stack.yaml': STACK,
    'env.yml': 'environment:\n  write_debug: overridden\n  from_file: 1\n  none:\n',
  })
  const {
    functions: [figlet, ready, templated],
  } = readProject(join(folder, 'stack.yaml'), {})
  t.equal(figlet?.image, 'me/figlet:0.1')
  t.same(figlet?.build, { context: './figlet', args: { ADDITIONAL_PACKAGE: 'curl' } })
  t.same(figlet?.notes, ['build_options is ignored: it selects packages of OpenFaaS templates'])
  const spec = parseDeployment({ ...figlet?.deployment, image: figlet?.image })
  t.same(spec.command, ['figlet', '-w', '80'], 'the classic watchdog’s program is the command')
  t.same(
    spec.envVars,
    { write_debug: 'overridden', combine_output: 'false', empty: '', from_file: '1', none: '' },
    'a file wins over the function, as with faas-cli',
  )
  t.same(
    [spec.limits.memoryBytes, spec.limits.cpus, spec.readOnlyRootFilesystem],
    [40 * 1024 ** 2, 0.1, true],
  )
  t.equal(ready?.build, undefined)
  t.equal(templated?.build?.template, 'node20')
  t.equal(templated?.deployment['command'], undefined)
  const withTemplate = t.testdir({
    'stack.yaml': STACK,
    'env.yml': 'environment: {}',
    template: { node20: { 'template.yml': 'language: node\nfprocess: node index.js\n' } },
  })
  t.same(
    readProject(join(withTemplate, 'stack.yaml'), {}).functions.map((f) => f.deployment['command']),
    [['figlet', '-w', '80'], undefined, ['node', 'index.js']],
    'a template supplies the program of functions without one',
  )
})

t.test('variables in a file', async (t) => {
  t.equal(
    substituteVariables('a ${A} ${B:-b} ${C-c} ${E:-e} $$ $A', { A: '1', C: '', E: '' }),
    'a 1 b  e $ $A',
  )
  t.equal(substituteVariables('# ${A}\nx: 1 # ${A}', {}), '# ${A}\nx: 1 # ${A}', 'not in comments')
  t.throws(() => substituteVariables('${A} ${B}', {}), { message: /not set: A, B$/ })
})

t.test('a file that is not YAML, expands without limit, or does not exist is rejected by name', async (t) => {
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [${'*a,'.repeat(10)}]\nc: &c [${'*b,'.repeat(10)}]\nd: [${'*c,'.repeat(10)}]\n`
  const folder = t.testdir({ 'bad.yaml': 'a: [', 'bomb.yaml': bomb })
  t.throws(() => readProject(join(folder, 'bad.yaml'), {}), {
    message: /bad\.yaml is not valid YAML .*line 1/s,
  })
  t.throws(() => readProject(join(folder, 'bomb.yaml'), {}), {
    message: /bomb\.yaml is not valid YAML .*alias/,
  })
  t.throws(() => readProject(join(folder, 'none.yaml'), {}), { message: /none\.yaml cannot be read/ })
  for (const [text, message] of [
    ['a: [', /env\.yml is not valid YAML .*line 1/s],
    ['x: 1', /env\.yml of f must contain "environment:"/],
    ['environment: { A: [1] }', /env\.yml of f: environment\.A must be a single value/],
  ] as const) {
    const own = t.testdir({
      'stack.yaml': 'provider: {}\nfunctions:\n  f: { image: x, environment_file: [env.yml] }\n',
      'env.yml': text,
    })
    t.throws(() => readProject(join(own, 'stack.yaml'), {}), { message })
  }
})

/** `wherry ARGV` with nothing around it: its exit code and what it wrote. */
async function run(argv: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const context: Context = {
    env: {},
    stdin: new PassThrough(),
    stdout,
    stderr,
    tellParent() {},
    onSignal: () => () => {},
    setExitCode() {},
  }
  const code = await runProgram(argv, context)
  return { code, stdout: String(stdout.read() ?? ''), stderr: String(stderr.read() ?? '') }
}

t.test('wherry deploy -f rejects an invalid function before anything is built or requested', async (t) => {
  const file = join(
    t.testdir({
      'wherry.yaml':
        'functions:\n  good:\n    image: x\n  bad:\n    build: .\n    bild: .\n    timeout: soon\n',
    }),
    'wherry.yaml',
  )
  t.match(await run(['deploy', '-f', file]), {
    code: 1,
    stderr:
      /wherry\.yaml is invalid\n {2}functions\.bad\.bild: is not a known field\n {2}functions\.bad\.timeout: "soon" is invalid.*\n$/,
  })
})

t.test('wherry deploy -f rejects an invalid image name before anything is built or requested', async (t) => {
  for (const [written, why] of [
    ['{ build: . }', /functions\.A_b\.image: "A_b" .*lower case/],
    ['{ image: "a b" }', /functions\.A_b\.image: "a b" is not an image reference/],
    [
      `{ build: ., image: "x@sha256:${'1'.repeat(64)}" }`,
      /functions\.A_b\.image: "x@sha256:1+" has a digest, which is not known before/,
    ],
  ] as const) {
    const file = join(
      t.testdir({ 'wherry.yaml': `functions:\n  good: { image: x }\n  A_b: ${written}\n` }),
      'wherry.yaml',
    )
    t.match(await run(['deploy', '-f', file]), { code: 1, stderr: why }, written)
  }
})

t.test('wherry init', async (t) => {
  const folder = t.testdir()
  const TESTS: Record<string, readonly string[]> = {
    node: ['node', '--test'],
    'lambda-node': ['node', '--test'],
    bash: ['bash', './test.sh'],
    python: ['python3', '-B', '-m', 'unittest'],
    'go-static': ['go', 'test'],
  }
  for (const [template, [program, ...args]] of Object.entries(TESTS)) {
    t.test(`--template ${template} creates a function whose test passes`, async (t) => {
      const own = join(folder, template)
      const { code, stdout, stderr } = await run([
        'init',
        'my-function',
        '--template',
        template,
        '--into',
        own,
      ])
      t.equal(code, 0, stderr)
      t.match(
        stdout,
        /Next:\n    cd .*\n(?:    .*\n)+    wherry invoke my-function -d '.*'\n$/,
        'says what to do next, as its README does',
      )
      for (const file of ['Dockerfile', '.dockerignore', 'wherry.yaml', 'README.md'])
        t.ok(statSync(join(own, file)).isFile(), file)
      t.notMatch(
        readdirSync(own)
          .map((file) => readFileSync(join(own, file), 'utf8'))
          .join(''),
        /\{\{/,
        'no placeholder is left',
      )
      const {
        functions: [only],
      } = readProject(join(own, 'wherry.yaml'), {})
      t.equal(parseDeployment({ ...only?.deployment, image: only?.image }).name, 'my-function')
      try {
        execFileSync('sh', ['-c', `command -v ${program!}`])
      } catch {
        t.comment(`its test was not run: this machine has no ${program!}`)
        return
      }
      const env = { PATH: process.env.PATH, HOME: own, GOFLAGS: '-mod=mod', GOCACHE: join(own, 'cache') }
      t.match(
        execFileSync(program!, args, { cwd: own, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }),
        /ok|pass|^$/,
      )
    })
  }
  t.test('writes a name that YAML would take for a number or a constant as text', async (t) => {
    for (const name of ['1', '2e3', '0x1f', 'null', 'true', 'false', '2024-01-01', 'no']) {
      t.match(
        await run(['init', name, '--template', 'bash', '--into', join(folder, `named-${name}`)]),
        { code: 0 },
        name,
      )
      t.match(
        readProject(join(folder, `named-${name}`, 'wherry.yaml'), {}).functions,
        [{ name, image: name }],
        name,
      )
    }
  })
  t.test('never writes over a folder, and refuses names that could not be deployed', async (t) => {
    mkdirSync(join(folder, 'there'))
    writeFileSync(join(folder, 'there/mine'), 'kept')
    t.match(await run(['init', 'x', '--into', join(folder, 'there')]), {
      code: 1,
      stderr: /already exists/,
    })
    t.same(readdirSync(join(folder, 'there')), ['mine'])
    for (const name of ['Upper', '../x', 'a_b', '-a', '', 'x'.repeat(64)])
      t.match(await run(['init', '--', name]), { code: 2 }, name)
    t.match(await run(['init', 'x', '--template', '../../..']), { code: 2, stderr: /there is no template/ })
    t.match(await run(['init', 'x', '--into', '/proc/nowhere']), { code: 1, stderr: /cannot be written/ })
  })
})

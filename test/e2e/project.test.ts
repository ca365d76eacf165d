// From a folder with a Dockerfile to a running function in one command: wherry init, wherry.yaml, OpenFaaS's
// stack.yaml, moved tags, signatures. The test builds its base image from busybox.

import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { generateKeyPairSync } from 'node:crypto'
import t from 'tap'
import { cannotRun, runWherry, shortFolder, startWherry } from '../helpers/wherry.ts'

if (cannotRun !== false) {
  t.plan(0, cannotRun)
  process.exit(0)
}

// In an unquoted here-document, \\$@ becomes $@ in the file.
const BASE =
  'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\nENV PATH=/bin\nRUN mkdir -m 1777 /tmp\nCOPY --chmod=755 <<EOF /bin/bash\n#!/bin/sh\nexec sh "\\$@"\nEOF\n'
const folder = shortFolder(t)
const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' })
writeFileSync(join(folder, 'key.pub'), keys.publicKey.export({ type: 'spki', format: 'pem' }))
writeFileSync(
  join(folder, 'policy.json'),
  JSON.stringify({
    default: { mode: 'off' },
    namespaces: { prod: { mode: 'require', keys: ['key.pub'] }, beta: { mode: 'warn', keys: ['key.pub'] } },
  }),
)
const wherry = await startWherry(t, { env: { WHERRY_SIGNATURES: join(folder, 'policy.json') } })
const deploy = (...args: string[]) => wherry.run(['deploy', '--data', wherry.data, ...args])

/** Create a folder NAME with FILES and busybox. */
function makeFolder(name: string, files: Readonly<Record<string, string>>): string {
  const path = join(folder, name)
  mkdirSync(path, { recursive: true })
  copyFileSync('/bin/busybox', join(path, 'busybox'))
  for (const [file, text] of Object.entries(files)) writeFileSync(join(path, file), text)
  return path
}

t.test('wherry init creates a folder that wherry deploy -f deploys', async (t) => {
  const base = makeFolder('base', { Dockerfile: BASE })
  t.match(
    await runWherry(['build', '-q', '-t', 'wherry/bash:5', '--network', 'none', '--data', wherry.data, base]),
    { code: 0, stdout: /^sha256:/ },
  )
  const own = join(folder, 'hello')
  t.match(await runWherry(['init', 'hello', '--template', 'bash', '--into', own]), { code: 0 })
  const first = await deploy('-f', join(own, 'wherry.yaml'))
  t.match(first, {
    code: 0,
    stdout: new RegExp(
      `^built ${wherry.addresses.registry}/hello:latest.*\npushed ${wherry.addresses.registry}/hello:latest.*\ndeployed hello: ${wherry.addresses.registry}/hello `,
    ),
  })
  t.match(first.stderr, /\nimage ready on 1 worker after /, 'the worker has the image before the first call')
  t.match(await wherry.run(['invoke', 'hello', '-d', 'river\n']), { code: 0, stdout: 'Hello, river!\n' })

  t.test('a second deploy builds, pushes and pulls nothing', async (t) => {
    const again = await deploy('-f', join(own, 'wherry.yaml'), '--json')
    t.equal(again.code, 0, again.stderr)
    t.match(
      JSON.parse(again.stdout),
      { name: 'hello', timeout: '10s', limits: { memory: '32Mi' } },
      'with --json, stdout has the deployments',
    )
    t.match(again.stderr, /CACHED/)
    t.notMatch(again.stderr, /\d in \d/, 'no layer was pushed')
  })
  t.test('a changed handler gives a new image, and describe reports a moved tag', async (t) => {
    writeFileSync(
      join(own, 'handler.sh'),
      readFileSync(join(own, 'handler.sh'), 'utf8').replace('Hello', 'Goodbye'),
    )
    t.match(
      await runWherry([
        'build',
        '-q',
        '-t',
        `${wherry.addresses.registry}/hello`,
        '--data',
        wherry.data,
        own,
      ]),
      { code: 0 },
    )
    t.match(await wherry.run(['describe', 'hello']), { code: 0, stdout: /tagMoved: +false/ })
    t.match(await runWherry(['push', `${wherry.addresses.registry}/hello`, '--data', wherry.data]), {
      code: 0,
    })
    t.match(await wherry.run(['describe', 'hello']), {
      code: 0,
      stdout: /tagMoved: +true/,
      stderr: /deploy again/,
    })
    t.match(
      await wherry.run(['invoke', 'hello', '-d', 'river\n']),
      { stdout: 'Hello, river!\n' },
      'calls run the deployed image',
    )
    t.match(await deploy('-f', join(own, 'wherry.yaml'), '--no-build'), {
      code: 0,
      stdout: /^deployed hello/,
    })
    t.match(await wherry.run(['invoke', 'hello', '-d', 'river\n']), { stdout: 'Goodbye, river!\n' })
  })
})

t.test('OpenFaaS’s stack.yaml works with a Dockerfile, a template and an existing image', async (t) => {
  const own = makeFolder('stack', {
    'stack.yaml': `provider: { name: openfaas, gateway: http://127.0.0.1:8080 }
functions:
  upper: { lang: dockerfile, handler: ./upper, image: me/upper:0.1, fprocess: tr a-z A-Z, environment: { A: 1 } }
  count: { lang: words, handler: ./count, image: count, build_args: { FLAG: "-c" } }
  ready: { image: ${wherry.addresses.registry}/me/upper:0.1, skip_build: true, fprocess: cat }
`,
  })
  makeFolder('stack/upper', { Dockerfile: BASE })
  makeFolder('stack/count', { script: 'exec wc "$1"\n' })
  makeFolder('stack/template/words', {
    Dockerfile: `${BASE}ARG FLAG\nENV FLAG=$FLAG\nCOPY function/script /script\nCMD sh /script $FLAG\n`,
  })
  const { code, stdout, stderr } = await deploy('-f', join(own, 'stack.yaml'))
  t.equal(code, 0, stderr)
  t.equal(stdout.match(/^deployed /gm)?.length, 3)
  t.match(await wherry.run(['invoke', 'upper', '-d', 'abc']), { stdout: 'ABC' })
  t.match(await wherry.run(['invoke', 'count', '-d', 'abcd']), { stdout: '4\n' })
  t.match(await wherry.run(['invoke', 'ready', '-d', 'abc']), { stdout: 'abc' })
  t.match(
    await deploy('upper', '-f', join(own, 'stack.yaml'), '--no-build'),
    { code: 0, stdout: /^deployed upper.*\n$/ },
    'deploys a single function of the file',
  )
})

t.test('errors are reported before anything is deployed', async (t) => {
  const own = makeFolder('wrong', {
    'fault.yaml': 'functions:\n  a: { build: 7 }\n  b: { image: x, limits: 3 }\n',
    'none.yaml': 'functions:\n  a: { image: x }\n',
    'template.yaml': 'provider: {}\nfunctions:\n  a: { lang: node99, handler: ., image: a }\n',
    'build.yaml': 'functions:\n  a: { build: . }\n',
    Dockerfile: 'FROM scratch\nCPOY x /\n',
  })
  t.match(await deploy('-f', join(own, 'fault.yaml')), {
    code: 1,
    stderr: /functions\.a\.build: must be the path of a folder/,
  })
  t.match(await deploy('b', '-f', join(own, 'none.yaml')), {
    code: 1,
    stderr: /has no function "b"; it has a/,
  })
  t.match(await deploy('-f', join(own, 'template.yaml')), {
    code: 1,
    stderr: /template\/node99\/Dockerfile does not exist .*faas-cli template store pull node99/,
  })
  t.match(await deploy('-f', join(own, 'build.yaml')), {
    code: 1,
    stderr: /Dockerfile:2: .*did you mean COPY/s,
  })
  t.match(await deploy('-f', join(own, 'build.yaml'), '--memory', '3Mi'), {
    code: 2,
    stderr: /--memory cannot be used with a YAML file/,
  })
  t.match(
    await runWherry([
      'deploy',
      '-f',
      join(own, 'build.yaml'),
      '--gateway',
      wherry.addresses.gateway,
      '--data',
      shortFolder(t),
    ]),
    { code: 1, stderr: /no wherry up is running on .*--registry/ },
  )
})

t.test(
  'an unsigned image is rejected in one namespace and causes a warning in another, as their policies say',
  async (t) => {
    const image = `${wherry.addresses.registry}/me/upper:0.1`
    t.match(await deploy('signed', '--image', image, '--namespace', 'prod', '--', 'cat'), {
      code: 1,
      stderr:
        /is not signed by any key in the policy of namespace "prod"; sign it with: cosign sign .*ERR_NOT_SIGNED/,
    })
    t.match(await deploy('warned', '--image', image, '--namespace', 'beta', '--', 'cat'), {
      code: 0,
      stderr: /is not signed by any key in the policy of namespace "beta"/,
    })
  },
)

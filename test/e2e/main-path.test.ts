// The whole product as a user runs it: up, push, deploy, every way to call, inspect, remove, down.

import { readdirSync, readFileSync } from 'node:fs'
import { Queue, QueueEvents } from 'bullmq'
import t from 'tap'
import { findLeftovers } from '../../infra/demo/census.ts'
import { makeBusyboxLayer, pushBusybox } from '../../infra/demo/image.ts'
import type { CallRecord } from '../../services/contract/call-record.ts'
import { cannotRun, startWherry, type RunningWherry } from '../helpers/wherry.ts'

if (cannotRun !== false) {
  t.plan(0, cannotRun)
  process.exit(0)
}

const wherry = await startWherry(t)
const image = await pushBusybox(wherry.addresses.registry, makeBusyboxLayer())

async function deploy({ run }: RunningWherry, name: string, ...args: string[]): Promise<void> {
  const { code, stderr } = await run(['deploy', name, '--image', image, ...args])
  t.equal(code, 0, `deploys ${name}: ${stderr}`)
}

const sh = (script: string): string[] => ['--', 'sh', '-c', script]

async function finishedRecord(callId: string): Promise<CallRecord> {
  for (;;) {
    const record = (await (
      await fetch(`${wherry.addresses.gateway}/system/calls/${callId}`)
    ).json()) as CallRecord
    if (record.state === 'finished') return record
  }
}

t.test('up prints all addresses once, and its progress on stderr', async (t) => {
  const { addresses, progress, data } = wherry
  t.match(addresses, {
    gateway: /^http:\/\/127\.0\.0\.1:[1-9]\d+$/,
    worker: /^http:\/\/127\.0\.0\.1:[1-9]\d+$/,
    registry: /^127\.0\.0\.1:[1-9]\d+$/,
    redis: /^unix:\/\/\/.*redis\.sock$/,
    data,
  })
  for (const part of ['redis', 'registry', 'gateway', 'worker'])
    t.ok(
      progress.some((line) => new RegExp(`^✓ ${part} +\\S+ +[\\d.]+ ms$`).test(line)),
      `a line for ${part}`,
    )
  t.equal((await fetch(`${addresses.worker}/healthz`)).status, 200)
  t.match(await (await fetch(`${addresses.gateway}/healthz`)).json(), { status: 'ok', workers: 1 })
})

t.test('deploy, list and describe show the same function', async (t) => {
  const deployed = await wherry.run([
    'deploy',
    'upper',
    '--image',
    image,
    '--memory',
    '32Mi',
    '--timeout',
    '5s',
    '--label',
    'team=river',
    '--json',
    '--',
    'tr',
    'a-z',
    'A-Z',
  ])
  t.match(JSON.parse(deployed.stdout), {
    name: 'upper',
    image,
    imageDigest: /^sha256:[0-9a-f]{64}$/,
    limits: { memory: '32Mi' },
  })
  t.match((await wherry.run(['list'])).stdout, /^NAME .*\nupper +\S+busybox:demo +stdio +0 +0 +0 +\d+m?s\n$/)
  t.match(JSON.parse((await wherry.run(['describe', 'upper', '--json'])).stdout), {
    name: 'upper',
    args: ['tr', 'a-z', 'A-Z'],
    timeout: '5s',
    labels: { team: 'river' },
  })
  t.match((await wherry.run(['describe', 'upper'])).stdout, /limits:\n {2}memory: +32Mi\n/)
})

t.test('invoke', async (t) => {
  t.test('prints the answer byte for byte, for a body from stdin, text or a file', async (t) => {
    t.equal((await wherry.run(['invoke', 'upper'], { input: 'from stdin\n' })).stdout, 'FROM STDIN\n')
    t.equal((await wherry.run(['invoke', 'upper', '-d', 'a text'])).stdout, 'A TEXT')
    const file = `${t.testdir({ body: 'a file' })}/body`
    t.equal((await wherry.run(['invoke', 'upper', '-d', `@${file}`])).stdout, 'A FILE')
    t.equal((await wherry.run(['invoke', 'upper'])).stdout, '', 'without stdin the body is empty')
  })
  t.test('shows headers, phases and the record on request', async (t) => {
    const shown = await wherry.run(['invoke', 'upper', '-d', 'x', '-i', '--timing'])
    t.match(shown.stdout, /^HTTP\/1\.1 200\r\n(?:.*\r\n)*x-wherry-outcome: ok\r\n(?:.*\r\n)*\r\nX$/)
    for (const phase of ['queue', 'pull', 'create', 'run', 'settle', 'total'])
      t.match(shown.stderr, new RegExp(`^${phase} +[\\d.]+ ms$`, 'm'))
    t.match(shown.stderr, /^cpu +[\d.]+ ms$/m)
    t.match(shown.stderr, /^memory peak +\d+Ki$/m)
    t.match(JSON.parse((await wherry.run(['invoke', 'upper', '-d', 'x', '--json'])).stdout), {
      function: 'upper',
      state: 'finished',
      outcome: 'ok',
      result: { body: 'X' },
      start: 'cold',
      phases: { create: Number },
      usage: { cpuMs: Number, cpuThrottledMs: Number, memoryPeakBytes: Number, oomKills: 0 },
    })
  })
  t.test('passes on method, path, query and headers', async (t) => {
    await deploy(
      wherry,
      'hello',
      '--env',
      'GREETING=hi',
      ...sh('echo "$GREETING $Http_Method $Http_Path $Http_Query $Http_X_Boat"'),
    )
    const { stdout } = await wherry.run([
      'invoke',
      'hello',
      '-X',
      'get',
      '--path',
      '/harbour?a=1',
      '-H',
      'X-Boat: wherry',
    ])
    t.equal(stdout, 'hi GET /harbour a=1 wherry\n')
  })
  t.test('prints an id with --async, and the record has the result', async (t) => {
    const { stdout, code } = await wherry.run(['invoke', 'upper', '-d', 'later', '--async'])
    t.equal(code, 0)
    t.match(await finishedRecord(stdout.trim()), {
      outcome: 'ok',
      result: { body: 'LATER', encoding: 'utf8' },
    })
  })
})

t.test('a plain BullMQ job runs a function, and its failure starts with the outcome', async (t) => {
  await deploy(wherry, 'picky', ...sh('read word; test "$word" = good && echo fine || exit 3'))
  const connection = { path: new URL(wherry.addresses.redis).pathname }
  const queue = new Queue('picky', { connection, prefix: '{wherry}' })
  // Without lastEventId it starts to listen shortly after it reports ready.
  const events = new QueueEvents('picky', { connection, prefix: '{wherry}', lastEventId: '0' })
  t.teardown(async () => {
    await Promise.all([queue.close(), events.close()])
  })
  await events.waitUntilReady()
  const good = await queue.add('invoke', 'good')
  t.match(await good.waitUntilFinished(events, 100_000), {
    outcome: 'ok',
    status: 200,
    body: 'fine\n',
    encoding: 'utf8',
    phases: { run: Number },
  })
  const bad = await queue.add('request', { method: 'POST', path: '/', body: 'bad' })
  await t.rejects(bad.waitUntilFinished(events, 100_000), { message: /^app_error: / })
})

t.test('a volume outlives the containers', async (t) => {
  await deploy(
    wherry,
    'notes',
    '--volume',
    'notes:/notes',
    '--read-only',
    ...sh('cat >>/notes/all; wc -l </notes/all'),
  )
  for (const lines of ['1', '2', '3'])
    t.equal((await wherry.run(['invoke', 'notes', '-d', 'a line\n'])).stdout.trim(), lines)
})

t.test('each kind of failure has an outcome on stderr and exit code 1', async (t) => {
  const cases = [
    { outcome: 'app_error', args: sh('echo what went wrong >&2; exit 3'), says: /what went wrong/ },
    { outcome: 'timeout', args: ['--timeout', '200ms', ...sh('sleep 30')], says: /200 ?ms/ },
    { outcome: 'oom', args: ['--memory', '16Mi', ...sh('head -c 100m /dev/zero | tail')], says: /memory/ },
    { outcome: 'init_fail', args: ['--', 'no-such-program'], says: /no-such-program/ },
    { outcome: 'init_fail', args: ['--user', 'nobody-knows', ...sh('true')], says: /nobody-knows/ },
  ]
  for (const [i, { outcome, args, says }] of cases.entries()) {
    await deploy(wherry, `fails-${i}`, ...args)
    const { code, stderr } = await wherry.run(['invoke', `fails-${i}`])
    t.equal(code, 1)
    t.match(stderr, new RegExp(`^wherry: invoke: fails-${i}: ${outcome}: `))
    t.match(stderr, says)
  }
  await deploy(
    wherry,
    'bomb',
    '--pids',
    '8',
    '--timeout',
    '5s',
    ...sh('for i in $(seq 50); do sleep 1 & done 2>&1; echo held'),
  )
  t.match(await wherry.run(['invoke', 'bomb']), { stdout: /fork|held/ }, 'the pids limit holds')
  const large = await wherry.run(['invoke', 'upper'], { input: Buffer.alloc(6 * 1024 ** 2 + 1) })
  t.equal(large.code, 1)
  t.match(large.stderr, /^wherry: invoke: upper: too_large: /)
})

t.test('logs and ps show running calls and their output', async (t) => {
  await deploy(wherry, 'slow', '--timeout', '10m', ...sh('echo under way >&2; sleep 500'))
  const callId = (await wherry.run(['invoke', 'slow', '--async'])).stdout.trim()
  let table = ''
  while (!table.includes(callId)) table = (await wherry.run(['ps'])).stdout
  const pid = Number(new RegExp(`slow +${callId} +(\\d+) +`).exec(table)?.[1])
  t.ok(pid > 1, 'the table shows the container’s pid')
  while (
    !readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').includes(' ') &&
    readFileSync(`/proc/${pid}/comm`, 'utf8') !== 'sleep\n'
  ) {
    /* wait for its first line */
  }
  process.kill(pid, 'SIGKILL')
  t.match(await finishedRecord(callId), { outcome: 'crash', signal: 'SIGKILL', log: 'under way\n' })
  t.match(
    (await wherry.run(['logs', 'fails-0', '--tail', '1'])).stdout,
    /^\d{4}-\S+Z [\w.-]+ what went wrong\n$/,
  )
})

t.test('200 calls in a row do not leak', async (t) => {
  const workerPid = JSON.parse((await wherry.run(['ps', '--json'])).stdout)[0].pid as number
  const count = (): Record<string, number> => ({
    fds: readdirSync(`/proc/${workerPid}/fd`).length,
    mounts: readFileSync(`/proc/${workerPid}/mountinfo`, 'utf8').split('\n').length,
    children: readFileSync(`/proc/${workerPid}/task/${workerPid}/children`, 'utf8').split(' ').length,
    volumesAndRun: readdirSync(wherry.data, { recursive: true }).length,
  })
  const call = async (): Promise<void> => {
    const reply = await fetch(`${wherry.addresses.gateway}/function/upper`, { method: 'POST', body: 'x' })
    if ((await reply.text()) !== 'X') t.fail(`HTTP ${reply.status}`)
  }
  for (let i = 0; i < 10; i++) await call()
  const before = count()
  for (let i = 0; i < 200; i++) await call()
  const after = count()
  for (const [what, number] of Object.entries(before))
    t.ok(after[what]! <= number + 2, `${what}: ${number} before, ${after[what]} after`)
})

t.test('a removed function no longer exists', async (t) => {
  t.match(await wherry.run(['remove', 'upper', 'hello']), {
    code: 0,
    stdout: 'removed upper\nremoved hello\n',
  })
  t.match(await wherry.run(['invoke', 'upper']), {
    code: 1,
    stderr: /no function "upper".*ERR_FUNCTION_NOT_FOUND/,
  })
  t.match(await wherry.run(['remove', 'upper']), { code: 1, stderr: /ERR_FUNCTION_NOT_FOUND/ })
})

t.test('an image can be removed once no function and no running call uses it', async (t) => {
  const images = async (...args: string[]) => await wherry.run(['image', ...args, '--data', wherry.data])
  await deploy(wherry, 'held', '--timeout', '10m', ...sh('sleep 500'))
  const callId = (await wherry.run(['invoke', 'held', '--async'])).stdout.trim()
  let table = ''
  while (!table.includes(callId)) table = (await wherry.run(['ps'])).stdout
  const pid = Number(new RegExp(`held +${callId} +(\\d+) +`).exec(table)?.[1])
  const [{ digest }] = JSON.parse((await images('ls', '--json')).stdout) as [{ digest: string }]
  t.match(JSON.parse((await images('ls', '--json')).stdout), [{ isDeployed: true, isPinned: true }])
  t.match(await images('rm', digest), {
    code: 1,
    stderr: /is used by a deployed function; remove the function first \(ERR_IMAGE_IN_USE\)/,
  })
  // Give the function another image and remove all others. Removing the function itself would end its call.
  const other = `${wherry.addresses.registry}/other`
  t.match(
    await wherry.run(['build', '-t', other, '-f', '-', '--data', wherry.data, '-'], {
      input: `FROM ${image}\nLABEL other=yes\n`,
    }),
    { code: 0 },
  )
  t.equal((await wherry.run(['push', other, '--data', wherry.data])).code, 0)
  t.equal((await wherry.run(['deploy', 'held', '--image', other, ...sh('true')])).code, 0)
  const names = (JSON.parse((await wherry.run(['list', '--json'])).stdout) as Array<{ name: string }>)
    .map((f) => f.name)
    .filter((name) => name !== 'held')
  t.equal((await wherry.run(['remove', ...names])).code, 0)
  const first = async (): Promise<{ isDeployed: boolean } | undefined> =>
    (
      JSON.parse((await images('ls', '--json')).stdout) as Array<{ digest: string; isDeployed: boolean }>
    ).find((one) => one.digest === digest)
  while ((await first())?.isDeployed === true) {
    /* wait for the worker to notice */
  }
  t.match(
    JSON.parse((await images('prune', '--all', '--json')).stdout),
    { images: [] },
    'the call still runs',
  )
  process.kill(pid, 'SIGKILL')
  while (JSON.parse((await images('prune', '--all', '--json')).stdout).images.length === 0) {
    /* wait for the worker to collect the exit */
  }
  t.equal(await first(), undefined)
  t.equal((await wherry.run(['remove', 'held'])).code, 0)
  await deploy(wherry, 'upper', '--', 'tr', 'a-z', 'A-Z')
  t.equal(
    (await wherry.run(['invoke', 'upper', '-d', 'again'])).stdout,
    'AGAIN',
    'it is pulled again on demand',
  )
})

t.test('stopping leaves no process, mount, cgroup or link behind', async (t) => {
  t.equal(await wherry.stop(), 0)
  t.same(await findLeftovers(wherry.subject), [])
})

// The containers room as a daemon uses it: hooks leave the event loop free and are bounded, and no file of
// the room blocks, prints, or reads the process's arguments and environment.

import { globSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { createContainers } from '../../services/containers/containers.ts'
import { requireStatus, WrongStatus } from '../../services/containers/errors.ts'
import { runHooks } from '../../services/containers/hooks.ts'
import type { Hook } from '../../services/contract/bundle-spec.ts'

const hook = (script: string, more: Partial<Hook> = {}): Hook => ({
  path: '/bin/sh',
  args: ['sh', '-c', script],
  env: undefined,
  timeoutMs: 0,
  ...more,
})
const input = { state: '{"id":"box"}', environment: { ...process.env, COLOR: 'red' } }

/** The message with which SCRIPT fails as a prestart hook. */
const failureOf = async (script: string, more?: Partial<Hook>): Promise<string> => {
  try {
    await runHooks('prestart', [hook(script, more)], input)
    return ''
  } catch (err) {
    return (err as Error).message
  }
}

t.test('hooks', async (t) => {
  t.test('leave the event loop free', async (t) => {
    let ticks = 0
    const timer = setInterval(() => ticks++, 10)
    await runHooks('prestart', [hook('sleep 0.5')], input)
    clearInterval(timer)
    t.ok(ticks > 5, `${ticks} ticks`)
  })
  t.test('get the state on stdin and their environment', async (t) => {
    t.equal(await failureOf('grep -q box && test "$COLOR" = red'), '')
    t.equal(await failureOf('test -z "$COLOR" && test "$A" = "b=c"', { env: ['A=b=c'] }), '')
    t.equal(await failureOf('exec 0<&-; exit 0'), '', 'need not read stdin')
  })
  t.test('report why they failed', async (t) => {
    t.equal(await failureOf('echo broken >&2; exit 3'), 'hooks.prestart[0]: /bin/sh: exit code 3: broken')
    t.match(await failureOf('kill -9 $$'), /killed by SIGKILL$/)
    t.match(await failureOf('', { path: '/nothing' }), /ENOENT/)
    t.match(await failureOf('', { args: ['sh', 'a\0b'] }), /null bytes/)
  })
  t.test('are killed after their timeout, even if children keep stderr open', async (t) => {
    const before = performance.now()
    t.match(await failureOf('sleep 20 & sleep 20', { timeoutMs: 200 }), /killed after 0\.2 s$/)
    t.ok(performance.now() - before < 10_000)
  })
  t.test('are killed when they write too much, and quoted in part', async (t) => {
    const message = await failureOf('yes words >&2')
    t.match(message, /killed: it wrote more than 1048576 bytes to stderr: /)
    t.ok(message.length < 5000)
  })
  t.test('run on after a failure that is only reported', async (t) => {
    const failures: string[] = []
    await runHooks('poststop', [hook('exit 1'), hook('exit 2')], input, (err) => failures.push(err.message))
    t.match(failures, [/poststop\[0\].*exit code 1/, /poststop\[1\].*exit code 2/])
  })
})

t.test('errors have a kind', async (t) => {
  const containers = createContainers({
    root: `${t.testdir()}/state`,
    nativeDir: '/nothing',
    native: () => {
      throw new Error('a state needs no library')
    },
    readConfig: () => {
      throw new Error('a state needs no config.json')
    },
    systemdCgroup: false,
    environment: {},
    warn: (message) => t.fail(message),
  })
  t.throws(() => containers.state('box'), { kind: 'not-found', message: 'container "box" does not exist' })
  t.throws(() => containers.state('../box'), { code: 'ERR_INVALID_REQUEST' })
  await t.rejects(containers.remove('box', false), { name: 'ContainerError', message: /does not exist/ })
  await t.resolves(containers.remove('box', true))
  t.same(
    containers.list((id) => t.fail(id)),
    [],
  )
  t.throws(() => requireStatus({ id: 'box', status: 'paused' }, 'start', ['created']), {
    kind: 'wrong-status',
    status: 'paused',
    message: 'cannot start container "box": it is paused, not created',
  })
  t.doesNotThrow(() => requireStatus({ id: 'box', status: 'created' }, 'start', ['created']))
  t.ok(new WrongStatus('kill', 'box', 'stopped', ['running']) instanceof Error)
})

t.test('no file of the room blocks, prints, or reads arguments and environment', async (t) => {
  const root = fileURLToPath(new URL('../../services/containers', import.meta.url))
  const files = globSync('*.ts', { cwd: root })
  t.ok(files.length > 10, 'finds the files')
  const forbidden =
    /\b(?:spawnSync|execSync|execFileSync|Atomics|process\.(?:std\w+|argv|env|exit\w*|cwd)|console\.(?:log|warn|error))\b/
  for (const file of files) t.notMatch(readFileSync(`${root}/${file}`, 'utf8'), forbidden, file)
})

// The log lines of a real process whose reader reads, or is gone.

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'

const LOG = new URL('../../services/platform/log.ts', import.meta.url).href
const GIVE_UP_MS = 200_000

/** A process that runs SCRIPT with a `log`. */
function start(t: Test, script: string): ChildProcess {
  const source = `import { createLog } from ${JSON.stringify(LOG)}\nconst log = createLog({ name: 'x', level: 'info' })\n${script}`
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], {
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: GIVE_UP_MS,
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
  })
  t.teardown(() => {
    child.kill('SIGKILL')
  })
  return child
}

t.test('every line arrives in order, including those written right before exit', async (t) => {
  const child = start(
    t,
    "for (let i = 0; i < 5000; i++) log.info({ i }, 'a line'); process.stdin.once('end', () => { log.info({ i: 5000 }, 'a line'); log.info('last words'); process.exit(3) }).resume()",
  )
  const exited = once(child, 'exit')
  let text = ''
  for await (const piece of child.stderr!.setEncoding('utf8')) {
    text += String(piece)
    if (text.includes('"i":4999')) child.stdin!.end() // the last lines must not wait for this reader
  }
  const lines = text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { i?: number; msg: string })
  t.same(await exited, [3, null])
  t.same(
    lines.slice(0, -1).map((line) => line.i),
    Array.from({ length: 5001 }, (_, i) => i),
  )
  t.equal(lines.at(-1)?.msg, 'last words')
})

t.test('an error is logged with its causes, each once, and its other properties', async (t) => {
  const child = start(
    t,
    `
    const cause = Object.assign(new Error('connect ENOENT /a'), { code: 'ENOENT' })
    log.warn({ err: new Error('Redis at /a: connect ENOENT /a', { cause }) }, 'away')
    log.warn({ err: Object.assign(new Error('no image', { cause: new Error('no registry', { cause }) }), { registryCode: 'X' }) }, 'away')
    const ring = new Error('round'); ring.cause = ring
    log.warn({ err: ring }, 'away')
    log.warn({ err: 'a text' }, 'away')`,
  )
  const errors = Buffer.concat((await child.stderr!.toArray()) as Buffer[])
    .toString()
    .trimEnd()
    .split('\n')
    .map((line) => (JSON.parse(line) as { err: { message: string; registryCode?: string } }).err)
  t.match(errors, [
    { message: /^Redis at \/a: connect ENOENT \/a$/, stack: /caused by: Error: connect ENOENT/ },
    { message: /^no image: no registry: connect ENOENT \/a$/, registryCode: 'X' },
    { message: /^round$/ },
    'a text',
  ])
})

t.test('a process whose reader is gone exits, even with lines left to write', async (t) => {
  for (const script of [
    "process.stdin.once('end', () => { log.info('one'); log.info('two'); process.exit(3) }).resume(); process.stdout.write('up')",
    "process.stdin.once('end', () => { log.info('one'); setTimeout(() => { log.info('two'); process.exit(3) }, 20) }).resume(); process.stdout.write('up')",
  ]) {
    const child = start(t, script)
    await once(child.stdout!, 'data')
    child.stderr!.destroy()
    await once(child.stderr!, 'close')
    child.stdin!.end()
    t.same(await once(child, 'exit'), [3, null])
  }
})

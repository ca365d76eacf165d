// A process with a container runtime, which tests put into a cgroup, send requests to, and kill. Its argument
// is the data folder. It sends { ready } or { failed: message } over its IPC channel, and then handles
// requests: { run: [verb…] } returns the result of a run; { hold: n, paused: k } starts n sleeping
// containers, pauses k of them, and returns their pids; { close } exits.

import { copyFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { createLog } from '../../services/platform/log.ts'
import type { Runtime } from '../../services/runtime/container.ts'
import { openRuntime } from '../../services/runtime/open.ts'
import { NATIVE_DIR, probeSpec, SLOWNESS, runOnce } from './container.ts'

const [dataDir = ''] = process.argv.slice(2)
const layer = join(dataDir, 'layer')
const say = (message: object): void => {
  process.send?.(message)
}
const leave = (): void => {
  process.disconnect?.()
}

async function answer(
  runtime: Runtime,
  message: { run?: string[]; hold?: number; paused?: number },
): Promise<object> {
  if (message.hold !== undefined) {
    const containers = Array.from({ length: message.hold }, () =>
      runtime.start(probeSpec([layer], ['sleep', '3600000'])),
    )
    await Promise.all(containers.slice(0, message.paused ?? 0).map((container) => container.pause()))
    return { pids: containers.map((container) => container.pid) }
  }
  const spec = probeSpec([layer], message.run ?? [])
  const result = await runOnce(runtime, {
    spec,
    body: Buffer.alloc(0),
    timeoutMs: 60_000 * SLOWNESS,
    responseMaxBytes: 1 << 20,
    signal: new AbortController().signal,
  })
  return { outcome: result.outcome, text: result.response.toString(), usage: result.exit.usage }
}

try {
  mkdirSync(layer, { recursive: true })
  copyFileSync(join(NATIVE_DIR, 'probe'), join(layer, 'probe'))
  const runtime = await openRuntime({
    nativeDir: NATIVE_DIR,
    dataDir,
    slots: 64,
    log: createLog({ name: 'test', level: 'silent' }),
  })
  process.on('message', (message: { run?: string[]; hold?: number; paused?: number; close?: true }) => {
    if (message.close) void runtime.close().then(leave)
    else void answer(runtime, message).then(say, (err: unknown) => say({ failed: String(err) }))
  })
  say({ ready: true })
} catch (err) {
  say({ failed: String(err) })
  leave()
}

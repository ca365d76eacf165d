// A process with a container runtime, to be put into a cgroup, asked things and killed. Argument: the data
// folder. Says { ready } or { failed: message }, and then answers over its IPC channel: { run: [verb…] } →
// the run's result; { hold: n, paused: k } → pids of n containers that sleep, k of them paused; { close } →
// ends.

import { copyFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { createLog } from '../../services/platform/log.ts'
import type { Runtime } from '../../services/runtime/container.ts'
import { openRuntime } from '../../services/runtime/open.ts'
import { runStdio } from '../../services/worker/stdio.ts'
import { NATIVE_DIR, probeSpec, SLOWNESS } from './container.ts'

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
  const result = await runStdio(runtime, {
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

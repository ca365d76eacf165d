// A container runtime on a temporary data folder. The root file system contains only the static probe program
// (native/test/probe.c). A test is the base spec, one change, one verb of the probe, and its expected output.

import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
} from 'node:fs'
import { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { createLog } from '../../services/platform/log.ts'
import type { Container, ContainerExit, Runtime } from '../../services/runtime/container.ts'
import { openRuntime } from '../../services/runtime/open.ts'
import {
  FUNCTION_SYSCTL,
  MASKED_PATHS,
  NO_CAPABILITIES,
  OOM_SCORE_ADJ,
  READONLY_PATHS,
} from '../../services/runtime/spec.ts'
import { runStdio, type StdioCall, type StdioCompletion } from '../../services/worker/contracts/stdio.ts'

export const NATIVE_DIR = fileURLToPath(new URL('../../build/native', import.meta.url))
export const needsRoot: false | string =
  process.getuid?.() === 0 ? false : 'needs root: only root can create containers'

/** Factor by which this machine is slower than usual; the emulated guest sets it (infra/vm). */
export const SLOWNESS = Number(process.env.WHERRY_TEST_SLOWNESS ?? 1)

/** A container that keeps running. */
export interface Held {
  readonly container: Container
  readonly pidNamespace: string
  /** First output on stdout or stderr. */
  readonly firstWords: Promise<string>
  /** Close its stdin, wait until it exits, and return its stdout. */
  finish(): Promise<ContainerExit & { text: string }>
  kill(): Promise<ContainerExit & { text: string }>
}

/** A completion as the tests of containers read it. */
export type Ran = StdioCompletion & {
  readonly response: Buffer
  readonly exit: Pick<StdioCompletion, 'exitCode' | 'signal' | 'usage'>
}

/** One container to its end, by the contract `stdio`. */
export async function runOnce(runtime: Runtime, call: StdioCall): Promise<Ran> {
  const completion = await runStdio(runtime, call)
  const { exitCode, signal, usage, body } = completion
  return {
    ...completion,
    response: Buffer.from(body),
    exit: { ...(exitCode !== undefined && { exitCode }), ...(signal !== undefined && { signal }), usage },
  }
}

export interface Rig {
  readonly runtime: Runtime
  readonly data: string
  /** Directory of a new, empty layer. Add files before the first run. */
  layer(): string
  readonly probeLayer: string
  run(
    args: readonly string[],
    change?: (spec: RuntimeSpec) => RuntimeSpec,
    more?: { body?: string | Uint8Array; timeoutMs?: number; responseMaxBytes?: number },
  ): Promise<Ran & { text: string }>
  hold(args: readonly string[], change?: (spec: RuntimeSpec) => RuntimeSpec): Held
  close(): Promise<void>
}

/** The spec of a function's container that runs the probe. */
export function probeSpec(layers: readonly string[], args: readonly string[]): RuntimeSpec {
  return {
    hostname: 'probe',
    process: {
      args: ['/probe', ...args],
      env: ['PATH=/', 'A=1'],
      cwd: '/',
      user: { uid: 0, gid: 0, additionalGids: [] },
      capabilities: NO_CAPABILITIES,
      rlimits: [{ type: 'RLIMIT_NOFILE', soft: 1024, hard: 1024 }],
      noNewPrivileges: true,
      oomScoreAdj: OOM_SCORE_ADJ,
    },
    root: { layers, readonly: false, scratchBytes: 4 << 20, scratchInodes: 512 },
    mounts: [
      { destination: '/proc', type: 'proc', options: ['nosuid', 'nodev', 'noexec'] },
      { destination: '/dev', type: 'dev', options: ['ro', 'nosuid', 'noexec'] },
      { destination: '/dev/shm', type: 'scratch', options: ['nosuid', 'nodev', 'noexec', 'mode=1777'] },
      { destination: '/tmp', type: 'scratch', options: ['nosuid', 'nodev', 'mode=1777'] },
    ],
    linux: {
      namespaces: ['mount', 'pid', 'ipc', 'uts', 'network', 'user', 'cgroup'],
      resources: {
        memory: { limit: 32 << 20 },
        cpu: { quota: 100_000, period: 100_000 },
        pids: { limit: 32 },
      },
      maskedPaths: MASKED_PATHS,
      readonlyPaths: READONLY_PATHS,
      sysctl: FUNCTION_SYSCTL,
    },
  }
}

function hold(runtime: Runtime, spec: RuntimeSpec): Held {
  const container = runtime.start(spec)
  const [stdout, stderr] = [container.stdout, container.stderr].map((fd) =>
    new Socket({ fd, readable: true, writable: false }).on('error', () => {}),
  )
  let text = ''
  stdout!.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  stderr!.resume()
  const closed = Promise.all([stdout!, stderr!].map((socket) => once(socket, 'close')))
  const firstWords = Promise.race([stdout!, stderr!].map((socket) => once(socket, 'data'))).then(([chunk]) =>
    String(chunk),
  )
  const ended = async () => {
    closeSync(container.stdin)
    const exit = await container.exited
    await closed
    return { ...exit, text }
  }
  return {
    container,
    pidNamespace: pidNamespaceOf(container.pid) ?? '',
    firstWords,
    finish: ended,
    kill() {
      container.kill()
      return ended()
    },
  }
}

/** Open a runtime with a temporary data folder; `close` removes both. */
export async function openRig(slots = 4): Promise<Rig> {
  const data = mkdtempSync(join(tmpdir(), 'wherry-test-'))
  chmodSync(data, 0o711)
  const runtime = await openRuntime({
    nativeDir: NATIVE_DIR,
    dataDir: data,
    slots,
    log: createLog({ name: 'test', level: 'silent' }),
  })
  const held: Container[] = []
  let layers = 0
  const layer = (): string => {
    const path = join(data, 'layers', String(layers++))
    mkdirSync(path, { recursive: true })
    return path
  }
  const probeLayer = layer()
  copyFileSync(join(NATIVE_DIR, 'probe'), join(probeLayer, 'probe'))
  chmodSync(join(probeLayer, 'probe'), 0o755)
  return {
    runtime,
    data,
    layer,
    probeLayer,
    async run(
      args,
      change = (spec) => spec,
      { body = '', timeoutMs = 60_000 * SLOWNESS, responseMaxBytes = 1 << 20 } = {},
    ) {
      const spec = change(probeSpec([probeLayer], args))
      const result = await runOnce(runtime, {
        spec,
        body: Buffer.from(body),
        timeoutMs,
        responseMaxBytes,
        signal: new AbortController().signal,
      })
      return { ...result, text: result.response.toString() }
    },
    hold(args, change = (spec) => spec) {
      const one = hold(runtime, change(probeSpec([probeLayer], args)))
      held.push(one.container)
      return one
    },
    async close() {
      for (const container of held) container.kill() // left by a test that failed halfway
      await runtime.close()
      rmSync(data, { recursive: true, force: true })
    },
  }
}

/** The pid namespace of process PID; undefined if the process has ended. */
export function pidNamespaceOf(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`)
  } catch {
    return undefined
  }
}

/** The processes in NAMESPACE, without zombies. */
export function processesIn(namespace: string): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && pidNamespaceOf(pid) === namespace)
}

/** Open a rig that is closed when T ends. */
export async function rigFor(t: Test, slots?: number): Promise<Rig> {
  const rig = await openRig(slots)
  t.teardown(() => rig.close())
  return rig
}

// Runs one RUN step in one container on top of the layers of its stage. A folder on the disk receives the
// files that it writes.
//
// Mount points that the image lacks are created in a folder below all its layers. So none has to be created
// in the folder that becomes the layer, and removed from it afterwards.

import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { SyscallError, Unsupported } from '../contract/errors.ts'
import type { Mount, RuntimeSpec, User } from '../contract/runtime-spec.ts'
import { formatBytes, formatDuration } from '../contract/quantity.ts'
import type { Container, Runtime } from '../runtime/container.ts'
import { follow, type FollowedExit } from '../runtime/follow.ts'
import { distinctHighest } from './layer-tool.ts'
import { buildRunSpec, HOSTNAME } from './run-spec.ts'
import { SECRETS_FOLDER } from './secrets.ts'

/**
 * A prepared mount of a step. SOURCE is a file or folder of the host; undefined is an empty folder in memory.
 */
export interface ReadyMount {
  /** Absolute. */
  readonly target: string
  readonly source?: string
  readonly isFile: boolean
  readonly isReadOnly: boolean
}

export interface RunRequest {
  /** Has "upper" and "work".  The step may create other files beside them. */
  readonly draft: string
  readonly layers: readonly string[]
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly cwd: string
  readonly user: User
  readonly mounts: readonly ReadyMount[]
  readonly network: 'none' | 'host'
  readonly memoryBytes: number
  readonly cpus: number
  readonly onOutput: (bytes: Buffer) => void
  readonly signal: AbortSignal
}

/** A step failed.  The message is a predicate of the step: "exited with code 1". */
export class StepFailed extends Error {
  readonly exitCode: number | undefined

  constructor(message: string, exitCode?: number) {
    super(message)
    this.name = 'StepFailed'
    this.exitCode = exitCode
  }
}

const STEP_TIMEOUT_MS = 2 * 3_600_000
const NO_BYTES = new Uint8Array(0)
const LOCAL_HOSTS = '127.0.0.1\tlocalhost\n::1\tlocalhost\n'

/** The hosts and name servers: those of the host if the step uses its network. */
async function networkFiles({ draft, network }: RunRequest): Promise<ReadyMount[]> {
  const folder = join(draft, 'network')
  await mkdir(folder, { mode: 0o755 })
  // A missing file of the host is no error.
  const hostFile = async (path: string, otherwise: string): Promise<string> =>
    network === 'none' ? otherwise : await readFile(path, 'utf8').catch(() => otherwise)
  const texts = {
    '/etc/hosts': `${await hostFile('/etc/hosts', LOCAL_HOSTS)}\n127.0.1.1\t${HOSTNAME}\n`,
    '/etc/resolv.conf': await hostFile('/etc/resolv.conf', ''),
  }
  return await Promise.all(
    Object.entries(texts).map(async ([target, text]) => {
      const source = join(folder, target.slice('/etc/'.length))
      await writeFile(source, text, { mode: 0o644 })
      return { target, source, isFile: true, isReadOnly: true }
    }),
  )
}

/** Create a folder with an empty file or folder at each mount point. */
async function makeMountPoints(draft: string, mounts: readonly ReadyMount[]): Promise<string> {
  const folder = join(draft, 'points')
  for (const path of ['/proc', '/dev']) await mkdir(join(folder, path), { recursive: true, mode: 0o755 })
  for (const { target, isFile } of mounts) {
    await mkdir(join(folder, isFile ? dirname(target) : target), { recursive: true, mode: 0o755 })
    if (isFile) await writeFile(join(folder, target), '', { mode: 0o644, flag: 'a' })
  }
  return folder
}

function mountOf({ target, source, isFile, isReadOnly }: ReadyMount): Mount {
  const options = ['nosuid', 'nodev', ...(isReadOnly ? ['ro'] : [])]
  if (source === undefined)
    return { destination: target, type: 'scratch', options: [...options, 'mode=1777'] }
  return { destination: target, type: 'bind', source, options: [...options, ...(isFile ? ['file'] : [])] }
}

function judge(exit: FollowedExit, { memoryBytes, signal }: RunRequest): void {
  signal.throwIfAborted()
  if (exit.usage.oomKills > 0)
    throw new StepFailed(
      `exceeded its memory limit of ${formatBytes(memoryBytes)} and was killed; raise the limit with --memory`,
    )
  if (exit.timedOut)
    throw new StepFailed(`was still running after ${formatDuration(STEP_TIMEOUT_MS)} and was killed`)
  if (exit.signal !== undefined) throw new StepFailed(`was killed by ${exit.signal}`)
  if (exit.exitCode !== 0) throw new StepFailed(`exited with code ${exit.exitCode}`, exit.exitCode ?? 1)
}

async function untilEnd(container: Container, request: RunRequest): Promise<void> {
  const onOutput = (chunk: Buffer): void => request.onOutput(Buffer.from(chunk))
  const exit = await follow(container, {
    body: NO_BYTES,
    timeoutMs: STEP_TIMEOUT_MS,
    signal: request.signal,
    onStdout: onOutput,
    onStderr: onOutput,
  })
  judge(exit, request)
}

/**
 * Start SPEC's container.  Throws Unsupported if the kernel cannot mount secrets, and what `start` throws.
 */
function begin(runtime: Runtime, spec: RuntimeSpec): Container {
  try {
    return runtime.start(spec)
  } catch (err) {
    const isSecret =
      err instanceof SyscallError &&
      err.syscall === 'mount_setattr' &&
      err.errno === 'EINVAL' &&
      err.op.includes(SECRETS_FOLDER)
    throw isSecret
      ? new Unsupported('secrets need Linux 6.3 or newer: this kernel cannot map ids on tmpfs', err)
      : err
  }
}

/**
 * Run REQUEST to its end. Throws StepFailed if the program fails, StartError if it cannot start, or the
 * signal's reason.
 */
export async function runInContainer(runtime: Runtime, request: RunRequest): Promise<void> {
  const mounts = [...(await networkFiles(request)), ...request.mounts]
  const points = await makeMountPoints(request.draft, mounts)
  request.signal.throwIfAborted()
  await untilEnd(
    begin(
      runtime,
      buildRunSpec({
        ...request,
        layers: [points, ...distinctHighest(request.layers)],
        writable: request.draft,
        mounts: mounts.map(mountOf),
      }),
    ),
    request,
  )
}

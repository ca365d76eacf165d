// Runs a credential helper, the program docker-credential-NAME, for one registry (the protocol is in the
// README of docker-credential-helpers). Time and output are bounded. Its standard error is never shown:
// helpers have written secrets there.

import { spawn } from 'node:child_process'
import { defined } from '../contract/defined.ts'

export interface HelperRequest {
  /** "ecr-login": the program is docker-credential-ecr-login, found on PATH. */
  readonly helper: string
  readonly server: string
  readonly env: Readonly<Record<string, string | undefined>>
  readonly timeoutMs?: number
  /** Kills the helper. */
  readonly signal?: AbortSignal
}

const TIMEOUT_DEFAULT_MS = 15_000
const OUTPUT_BYTES_MAX = 256 * 1024
const HELPER_NAME = /^[A-Za-z0-9][\w.-]{0,63}$/
const NOT_FOUND = /credentials not found|no credentials server url|no credentials username/i

interface Ended {
  readonly code: number | null
  readonly output: string
  readonly broken?: string
}

function run(
  program: string,
  { server, env, timeoutMs = TIMEOUT_DEFAULT_MS, signal }: HelperRequest,
): Promise<Ended> {
  return new Promise((resolve) => {
    // In a process group of its own, so that its children are killed with it.
    const child = spawn(program, ['get'], {
      stdio: ['pipe', 'pipe', 'ignore'],
      env: { ...env },
      cwd: '/',
      detached: true,
    })
    const pieces: Buffer[] = []
    let total = 0
    let broken: string | undefined
    const end = (why: string): void => {
      broken ??= why
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
      } catch {
        /* it has exited (kill(2): ESRCH) */
      }
      child.stdout.destroy()
    }
    const late = setTimeout(end, timeoutMs, `took longer than ${timeoutMs} ms`)
    const abort = (): void => end('was stopped')
    signal?.addEventListener('abort', abort)
    if (signal?.aborted) abort()
    child.stdout.on('data', (piece: Buffer) => {
      total += piece.length
      if (total > OUTPUT_BYTES_MAX) end(`printed more than ${OUTPUT_BYTES_MAX} bytes`)
      else pieces.push(piece)
    })
    child.stdin
      .on('error', () => {
        /* a helper may exit without reading its input */
      })
      .end(server)
    child.once('error', (error) => {
      broken ??=
        'code' in error && error.code === 'ENOENT'
          ? 'is not installed'
          : `cannot be started (${error.message})`
    })
    child.once('close', (code) => {
      clearTimeout(late)
      signal?.removeEventListener('abort', abort)
      resolve({
        code,
        output: Buffer.concat(pieces).toString('utf8'),
        ...defined({ broken }),
      })
    })
  })
}

/**
 * The credentials that the helper has for a server, or undefined. Throws an Error whose message contains no
 * secret.
 */
export async function askHelper(
  request: HelperRequest,
): Promise<{ username: string; secret: string } | undefined> {
  if (!HELPER_NAME.test(request.helper))
    throw new Error('the name of a credential helper must be letters, digits and . _ -')
  const program = `docker-credential-${request.helper}`
  const { code, output, broken } = await run(program, request)
  if (broken !== undefined) throw new Error(`${program} ${broken}`)
  if (code !== 0) {
    if (NOT_FOUND.test(output)) return undefined
    throw new Error(`${program} exited with code ${code}`)
  }
  let answer: { Username?: unknown; Secret?: unknown } | null
  try {
    answer = JSON.parse(output)
  } catch {
    answer = null // the parser's message would quote the secret
  }
  const { Username: username, Secret: secret } = answer ?? {}
  // oxlint-disable-next-line no-control-regex
  const isText = (value: unknown): value is string =>
    typeof value === 'string' && value !== '' && !/[\x00-\x1f\x7f]/.test(value)
  if (!isText(username) || !isText(secret))
    throw new Error(`${program} did not answer with a user name and a secret`)
  return { username, secret }
}

// A credential helper: the program docker-credential-NAME, asked for one registry (docker-credential-helpers,
// README: the protocol).  Knows how it is run within bounds.  Refuses to know what a credential is for.
// Its standard error is not shown to anybody: helpers have written secrets there.

import { spawn } from 'node:child_process'
import { defined } from '../contract/defined.ts'

export interface HelperRequest {
  /** "ecr-login": the program is docker-credential-ecr-login, found on PATH. */
  readonly helper: string
  readonly server: string
  readonly env: Readonly<Record<string, string | undefined>>
  readonly timeoutMs?: number
  /** Ends it. */
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
    // A group of its own: what the helper starts ends with it.
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
        /* it is gone already (kill(2): ESRCH) */
      }
      child.stdout.destroy()
    }
    const late = setTimeout(end, timeoutMs, `took longer than ${timeoutMs} ms`)
    const abort = (): void => end('was ended')
    signal?.addEventListener('abort', abort)
    if (signal?.aborted) abort()
    child.stdout.on('data', (piece: Buffer) => {
      total += piece.length
      if (total > OUTPUT_BYTES_MAX) end(`printed more than ${OUTPUT_BYTES_MAX} bytes`)
      else pieces.push(piece)
    })
    child.stdin
      .on('error', () => {
        /* it may not want to be asked */
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
 * What HELPER knows of SERVER; undefined when it knows nothing. Throws an Error whose message has no secret
 * in it.
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
    throw new Error(`${program} failed with exit code ${code}`)
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

// A front before a real registry: passes requests on, and does something else with those that a test points
// out. Faults on the way happen to real uploads this way.

import { createServer, request as send, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Test } from 'tap'
import type { AddressInfo } from 'node:net'

export interface FrontRequest {
  readonly method: string
  readonly path: string
  /** Content-Range as it was sent; "" without one. */
  readonly range: string
  /** Of the range: first byte, and the one behind the last. */
  readonly start: number
  readonly end: number
}

export interface Meddling {
  /** Answer so, and do not ask the registry. */
  readonly status?: number
  /** Pass on so much of the body, then cut both connections. */
  readonly cutAfterBytes?: number
  /** The registry does it, and nobody hears of it. */
  readonly loseAnswer?: boolean
}

export interface Front {
  readonly host: string
  readonly requests: FrontRequest[]
}

function pass(
  request: IncomingMessage,
  response: ServerResponse,
  target: string,
  { cutAfterBytes, loseAnswer }: Meddling,
): void {
  const [host, port] = target.split(':')
  // Host stays the front's: the registry names it in Location.
  const onward = send(
    { host, port, method: request.method, path: request.url, headers: request.headers },
    (answer) => {
      if (loseAnswer === true) answer.resume().once('end', () => request.socket.destroy())
      else {
        response.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.pipe(response)
      }
    },
  )
  onward.on('error', () => request.socket.destroy())
  if (cutAfterBytes === undefined) {
    request.pipe(onward)
    return
  }
  let passed = 0
  request.on('data', (piece: Buffer) => {
    const part = piece.subarray(0, cutAfterBytes - passed)
    passed += part.length
    onward.write(part, () => {
      if (passed < cutAfterBytes) return
      onward.destroy()
      request.socket.destroy()
    })
  })
}

/**
 * A front before the registry TARGET until T ends. MEDDLE says what to do with a request; undefined: pass it
 * on.
 */
export async function startFront(
  t: Test,
  target: string,
  meddle: (request: FrontRequest) => Meddling | undefined,
): Promise<Front> {
  const requests: FrontRequest[] = []
  const server = createServer((request, response) => {
    const range = request.headers['content-range'] ?? ''
    const [, start = 0, last = -1] = /^(\d+)-(\d+)$/.exec(range)?.map(Number) ?? []
    const seen = { method: request.method ?? '', path: request.url ?? '', range, start, end: last + 1 }
    requests.push(seen)
    const meddling = meddle(seen)
    if (meddling?.status !== undefined) {
      request.resume()
      response.writeHead(meddling.status).end()
    } else pass(request, response, target, meddling ?? {})
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  t.teardown(
    () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  )
  return { host: `127.0.0.1:${(server.address() as AddressInfo).port}`, requests }
}

// A proxy in front of a real registry that forwards requests and injects faults into those that the test
// selects, so that real uploads fail halfway.

import { createServer, request as send, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Test } from 'tap'
import type { AddressInfo } from 'node:net'

export interface FrontRequest {
  readonly method: string
  readonly path: string
  /** The Content-Range header; "" if there is none. */
  readonly range: string
  /** First byte of the range, and the byte after its last. */
  readonly start: number
  readonly end: number
}

export interface Meddling {
  /** Reply with this status and do not forward the request. */
  readonly status?: number
  /** Forward this many bytes of the body, then close both connections. */
  readonly cutAfterBytes?: number
  /** Forward the request, but close the connection instead of sending the reply. */
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
  // Keep the Host header of this proxy: the registry copies it into Location.
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

/** Proxy to the registry TARGET until T ends. MEDDLE chooses a fault for a request; undefined forwards it. */
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

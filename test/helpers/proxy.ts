// An HTTP proxy for one test. It supports CONNECT and absolute URLs, and connects every host name to one
// address on this machine.

import { createServer, request as send, type ServerResponse } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

export interface TestProxy {
  readonly host: string
  /** "CONNECT registry.example:443 Basic …", "GET http://registry.example/v2/ …", in order of arrival. */
  readonly requests: string[]
}

/** Start a proxy to TARGET ("127.0.0.1:5000") until T ends. REFUSES: reply 407 to every request. */
export async function startProxy(t: Test, target: string, { refuses = false } = {}): Promise<TestProxy> {
  const requests: string[] = []
  const [host = '', port = ''] = target.split(':')
  const sockets = new Set<Socket>()
  const keep = (socket: Socket): Socket => {
    sockets.add(socket)
    return socket.on('error', () => {}).once('close', () => sockets.delete(socket))
  }
  const refuse = (response: ServerResponse): void => {
    response.writeHead(407).end()
  }
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url} ${request.headers['proxy-authorization'] ?? ''}`.trim())
    if (refuses) return refuse(response)
    const { pathname, search } = new URL(request.url ?? '')
    const { 'proxy-authorization': _, ...headers } = request.headers
    const onward = send(
      { host, port, method: request.method, path: pathname + search, headers },
      (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.pipe(response)
      },
    )
    request.pipe(onward.on('error', () => response.destroy()))
  })
  server.on('connection', keep).on('connect', (request, socket: Socket) => {
    requests.push(`CONNECT ${request.url} ${request.headers['proxy-authorization'] ?? ''}`.trim())
    if (refuses) return void socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n')
    const onward = keep(
      connect(Number(port), host, () => {
        socket.write('HTTP/1.1 200 OK\r\n\r\n')
        onward.pipe(socket)
        socket.pipe(onward)
      }),
    )
    socket.once('close', () => onward.destroy())
    onward.once('close', () => socket.destroy())
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  t.teardown(
    () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  )
  return { host: `127.0.0.1:${(server.address() as AddressInfo).port}`, requests }
}

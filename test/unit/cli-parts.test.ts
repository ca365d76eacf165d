// Parts of the command line: text, failures, the gateway client, processes, the lock of the data folder,
// supervision of a child.  Needs neither root nor Redis.

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { PassThrough } from 'node:stream'
import t, { type Test } from 'tap'
import { connectGateway } from '../../services/cli/connect.ts'
import { exitCodeOf, type Context } from '../../services/cli/context.ts'
import { describeFailure, Failure, failureOf } from '../../services/cli/failure.ts'
import { createGatewayClient } from '../../services/cli/gateway-client.ts'
import { createProgress, describeLayer } from '../../services/cli/image/progress.ts'
import { interruptible } from '../../services/cli/interrupt.ts'
import { createPainter } from '../../services/cli/painter.ts'
import type { LayerState } from '../../services/contract/image.ts'
import { runProgram } from '../../services/cli/program.ts'
import { formatFields, formatTable } from '../../services/cli/table.ts'
import { formatAge, formatSize, printable } from '../../services/cli/terminal.ts'
import { createPart, type PartEvents } from '../../services/cli/up/child.ts'
import { formatChildLine } from '../../services/cli/up/output.ts'
import { probePorts } from '../../services/cli/up/ports.ts'
import { identityOf, isAlive, startTimeOf, waitUntilGone } from '../../services/platform/process-identity.ts'
import { fit, pad, widthOf } from '../../services/platform/text-width.ts'
import { lockDataDir, readHolder, readState, writeState } from '../../services/cli/up/state.ts'
import { Conflict, InvalidRequest } from '../../services/contract/errors.ts'

t.test(
  'fields are one per line, and an untrusted value of several lines cannot pass for several',
  async (t) => {
    t.same(
      formatFields({ user: '', labels: { note: 'a\nisDeployed: true', 'x\ny': 1 }, list: ['a'], deep: {} }),
      ['labels:', '  note: a\n        isDeployed: true', '  x y:  1', 'list:   ["a"]'],
    )
  },
)

t.test('tables', async (t) => {
  const columns = [
    { title: 'NAME', shrinks: true },
    { title: 'N', right: true },
  ]
  t.test('are as wide as their cells', async (t) => {
    t.equal(
      formatTable(columns, [
        ['a', '1'],
        ['longer', '22'],
      ]),
      'NAME     N\na        1\nlonger  22\n',
    )
  })
  t.test('cut only the shrinking columns on a narrow terminal', async (t) => {
    t.equal(
      formatTable(columns, [['a-very-long-name-indeed', '12345']], 20),
      'NAME               N\na-very-long-…  12345\n',
    )
  })
  t.test('align columns of wide characters and emoji', async (t) => {
    t.equal(
      formatTable(columns, [
        ['日本', '1'],
        ['e\u0301', '22'],
        ['👩‍👩‍👧', '3'],
      ]),
      'NAME   N\n日本   1\ne\u0301     22\n👩‍👩‍👧     3\n',
    )
    t.equal(formatTable(columns, [['日本語日本語日本語', '1']], 15), 'NAME          N\n日本語日本…   1\n')
  })
  t.test('contain no control characters', async (t) => {
    t.equal(formatTable(columns, [['a\u001b[2Jb\nc', '1']]), 'NAME      N\na�[2Jb c  1\n')
  })
})

t.test('fields are one per line, with those of nested objects below', async (t) => {
  t.same(
    formatFields({
      name: 'a',
      args: ['x', 'y'],
      none: [],
      empty: '',
      limits: { cpu: '1' },
      layers: [
        { id: 'l', size: 1 },
        { id: 'm', size: 2 },
      ],
    }),
    [
      'name:   a',
      'args:   ["x","y"]',
      'limits:',
      '  cpu: 1',
      'layers:',
      '  - id:   l',
      '    size: 1',
      '  - id:   m',
      '    size: 2',
    ],
  )
})

t.test('text is cut and padded by columns, never inside a grapheme', async (t) => {
  t.equal(widthOf('a日🎉e\u0301👨‍👩‍👧'), 8)
  t.equal(fit('日本語', 6), '日本語')
  t.equal(fit('日本語', 5), '日本…')
  t.equal(fit('日本語', 4), '日…')
  t.equal(fit('👨‍👩‍👧👨‍👩‍👧', 3), '👨‍👩‍👧…')
  t.equal(fit('abc', 1), '…')
  t.equal(fit('abc', -1), '')
  t.equal(pad('日', 4), '日  ')
  t.equal(pad('日', 4, { right: true }), '  日')
  t.equal(pad('日', 1), '日')
})

t.test('the painter', async (t) => {
  const screen = (columns: number, rows: number) =>
    Object.assign(new PassThrough({ encoding: 'utf8' }), { isTTY: true, columns, rows })
  const written = (stderr: PassThrough): string => String(stderr.read() ?? '')
  t.test('repaints over its last lines, below what stays', async (t) => {
    const stderr = screen(80, 24)
    let lines = ['one', 'two']
    const painter = createPainter(stderr, () => lines)
    painter.paint()
    t.equal(written(stderr), 'one\ntwo\n')
    lines = ['three']
    painter.paint('done\n')
    t.equal(written(stderr), '\u001b[2A\u001b[Jdone\nthree\n')
    painter.erase()
    t.equal(written(stderr), '\u001b[1A\u001b[J')
    painter.erase()
    t.equal(written(stderr), '', 'nothing is left to clear')
    painter.paint()
    painter.release()
    written(stderr)
    painter.paint()
    t.equal(written(stderr), 'three\n', 'released lines are not painted over')
    painter.release()
  })
  t.test('never paints more than the terminal shows', async (t) => {
    const stderr = screen(10, 3)
    const painter = createPainter(stderr, () => ['first', '日本語日本語', 'last'])
    painter.paint()
    t.equal(written(stderr), '日本語日…\nlast\n'.replace('日…', '日…'))
    Object.assign(stderr, { columns: 5 })
    painter.paint()
    t.equal(
      written(stderr),
      '\u001b[2A\u001b[J日…\nlast\n',
      'in a narrower terminal the old lines wrapped, but only two of their rows are visible',
    )
    Object.assign(stderr, { rows: 0, columns: 0 })
    painter.paint()
    t.match(written(stderr), /first\n日本語日本語\nlast\n$/, 'a terminal without a size counts as 80x24')
  })
})

t.test('ages, sizes and log lines are readable', async (t) => {
  t.same([0, 420, 61_000, 3_600_000, 93_784_000].map(formatAge), ['0ms', '420ms', '1m1s', '1h', '1d2h'])
  t.same([0, 999, 1000, 13_002_342, 2 ** 40].map(formatSize), [
    '0 B',
    '999 B',
    '1.0 KiB',
    '12.4 MiB',
    '1.0 TiB',
  ])
  t.equal(printable('tab\tline\nbell\u0007csi\u009b'), 'tab\tline\nbell�csi�')
  t.equal(
    formatChildLine(
      'gateway',
      '{"level":40,"time":1,"pid":2,"hostname":"h","name":"gateway","msg":"Redis is away","err":{"message":"no\\u001b[31m"},"n":3}',
    ),
    'gateway   warn Redis is away err=no�[31m n=3',
  )
  t.equal(formatChildLine('redis', 'plain words'), 'redis     plain words')
})

t.test('a failure is one line with a remedy, followed by its faults', async (t) => {
  t.equal(
    describeFailure(new Failure('up', 'no\nroot', { remedy: 'use sudo' })),
    'wherry: up: no root; use sudo\n',
  )
  t.equal(
    describeFailure(
      failureOf(
        'deploy',
        new InvalidRequest([
          { path: 'a', problem: 'is bad' },
          { path: '', problem: 'all is bad' },
        ]),
      ),
    ),
    'wherry: deploy: invalid input\n  a: is bad\n  all is bad\n',
  )
  t.equal(
    describeFailure(failureOf('x', new Conflict('it is there', 'ERR_CALL_EXISTS'))),
    'wherry: x: it is there (ERR_CALL_EXISTS)\n',
  )
  const many = Array.from({ length: 60 }, (_, i) => ({ path: `f${i}`, problem: 'is bad' }))
  t.match(describeFailure(new Failure('x', 'y', { faults: many })), /f49: is bad\n {2}… and 10 more\n$/)
})

/** Starts a server with LISTENER; returns its URL. */
async function serve(t: Test, listener: RequestListener): Promise<URL> {
  const server = createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
}

t.test('the gateway client', async (t) => {
  t.test('turns a gateway’s error body into a failure with its code and faults', async (t) => {
    const url = await serve(t, (request, reply) => {
      reply.writeHead(400, { 'content-type': 'application/json' })
      reply.end(
        request.url === '/faults'
          ? '{"error":{"code":"ERR_INVALID_REQUEST","message":"m","faults":[{"path":"limits.cpu","problem":"is bad"}]}}'
          : '{"error":{"code":"ERR_X","message":"because"}}',
      )
    })
    const client = createGatewayClient('deploy', url)
    await t.rejects(client.json({ method: 'GET', path: '/' }), {
      what: 'deploy',
      message: 'because (ERR_X)',
      exitCode: 1,
    })
    await t.rejects(client.json({ method: 'GET', path: '/faults' }), {
      message: 'the gateway rejected the input (ERR_INVALID_REQUEST)',
      faults: [{ path: 'limits.cpu', problem: 'is bad' }],
    })
  })
  t.test('reports that something else is listening there', async (t) => {
    const url = await serve(t, (request, reply) => {
      reply.writeHead(request.url === '/html' ? 200 : 404).end('<html>')
    })
    const client = createGatewayClient('list', url)
    await t.rejects(client.json({ method: 'GET', path: '/html' }), {
      message: 'the reply is not JSON',
      remedy: 'is Wherry listening there?',
    })
    await t.rejects(client.json({ method: 'GET', path: '/' }), { message: 'the gateway answered 404' })
  })
  t.test('announces a large body, and sends it only on request', async (t) => {
    const server = createServer((request, reply) => {
      void request.toArray().then((chunks) => reply.end(String(Buffer.concat(chunks as Buffer[]).length)))
    })
    server.on('checkContinue', (request: IncomingMessage, reply: ServerResponse) => {
      if (request.url === '/refused') {
        reply
          .writeHead(413, { connection: 'close' })
          .end('{"error":{"code":"ERR_TOO_LARGE","message":"too much"}}')
      } else {
        if (request.url === '/wanted') reply.writeContinue()
        server.emit('request', request, reply)
      }
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    t.teardown(() => {
      server.close()
    })
    const client = createGatewayClient(
      'invoke',
      new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}`),
    )
    const body = Buffer.alloc(16 * 1024 ** 2)
    t.equal((await client.send({ method: 'POST', path: '/refused', body })).status, 413)
    t.equal(String((await client.send({ method: 'POST', path: '/wanted', body })).body), String(body.length))
    t.equal(
      String((await client.send({ method: 'POST', path: '/says-nothing', body })).body),
      String(body.length),
    )
  })
  t.test('fails if the reply is truncated', async (t) => {
    const url = await serve(t, (_request, reply) => {
      reply.writeHead(200, { 'content-length': '100' }).write('[', () => reply.destroy())
    })
    await t.rejects(createGatewayClient('list', url).json({ method: 'GET', path: '/' }), {
      message: 'the gateway closed the connection in the middle of its reply',
    })
  })
})

interface Captured {
  readonly context: Context
  readonly out: () => string
  readonly err: () => string
}

function capture(env: Record<string, string> = {}): Captured {
  const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()]
  stdin.end()
  const read = (stream: PassThrough): string => {
    let text = ''
    for (let chunk = stream.read() as Buffer | null; chunk !== null; chunk = stream.read() as Buffer | null)
      text += chunk.toString('utf8')
    return text
  }
  const context: Context = {
    env,
    stdin,
    stdout,
    stderr,
    tellParent: () => {},
    onSignal: () => () => {},
    setExitCode: () => {},
  }
  return { context, out: () => read(stdout), err: () => read(stderr) }
}

t.test('deploy sends the gateway’s fields', async (t) => {
  const bodies: unknown[] = []
  let isRestarted = false
  let live = [{ name: 'w1', startedAtMs: 1 }]
  let pulls = [
    {
      worker: 'w1',
      state: 'pulling',
      layers: [
        {
          layer: `sha256:${'b'.repeat(64)}`,
          state: 'receiving',
          receivedBytes: 1,
          sizeBytes: 2,
          unpackedBytes: 0,
        },
      ],
    },
    { worker: 'gone', state: 'pulling', layers: [] },
  ] as object[]
  const url = await serve(t, (request, reply) => {
    if (request.url === '/system/workers') return void reply.end(JSON.stringify(live))
    if (request.url === '/system/function/f/pulls') {
      reply.end(JSON.stringify({ workers: pulls }))
      if (pulls.length > 1) pulls = [{ worker: 'w1', state: 'ready', layers: [] }]
      if (isRestarted) live = [{ name: 'w1', startedAtMs: 2 }]
      return
    }
    void request.toArray().then((chunks) => {
      bodies.push(JSON.parse(Buffer.concat(chunks as Buffer[]).toString('utf8')))
      reply.writeHead(202).end('{"name":"f","imageDigest":"sha256:1"}')
    })
  })
  const file = `${t.testdir({ 'f.json': '{"service":"f","image":"old","timeout":"9s"}' })}/f.json`
  const { context, out, err } = capture({ WHERRY_GATEWAY_URL: url.href, SECRET: 'from here' })
  const flags = [
    '--image',
    'img',
    '--command',
    '/bin/sh',
    '--command',
    '-c',
    '--env',
    'A=b=c',
    '--env',
    'SECRET',
    '--memory',
    '64Mi',
    '--cpu',
    '0.5',
    '--pids',
    '9',
    '--volume',
    'v:/v:ro',
    '--volume',
    'w:/w',
    '--user',
    'u',
    '--workdir',
    '/x',
    '--read-only',
    '--label',
    'l=m',
  ]
  t.equal(await runProgram(['deploy', 'f', ...flags, '--', 'cat', '-n'], context), 0)
  t.equal(out(), 'deployed f: img (sha256:1)\n')
  t.match(err(), /^bbbbbbbbbbbb {2}2 B\nimage ready on 1 worker after /, 'it waits for the live workers')
  t.equal(await runProgram(['deploy', '-f', file, '--image', 'new', '--json'], context), 0)
  t.equal(out(), '{"name":"f","imageDigest":"sha256:1"}\n')
  pulls = [{ worker: 'w1', state: 'failed', layers: [], message: 'no space\u001b[2J' }]
  t.equal(await runProgram(['deploy', 'f', '--image', 'img'], context), 1)
  t.match(
    err(),
    /no image on worker w1: no space�\[2J\nwherry: deploy: f is deployed, but no worker could pull its image;/,
  )
  t.equal(await runProgram(['deploy', 'f', '--image', 'img', '--no-wait'], context), 0)
  isRestarted = true
  pulls = [{ worker: 'w1', state: 'pulling', layers: [] }]
  t.equal(
    await runProgram(['deploy', 'f', '--image', 'img'], context),
    0,
    'it does not wait for the report of a worker that restarted',
  )
  t.equal(err(), 'no worker has the image yet; the first call will wait for it\n')
  isRestarted = false
  live = []
  pulls = []
  t.equal(await runProgram(['deploy', 'f', '--image', 'img'], context), 0)
  t.equal(err(), 'no worker is running; calls wait until one starts\n')
  bodies.splice(2)
  t.same(bodies, [
    {
      service: 'f',
      image: 'img',
      command: ['/bin/sh', '-c'],
      args: ['cat', '-n'],
      envVars: { A: 'b=c', SECRET: 'from here' },
      limits: { memory: '64Mi', cpu: '0.5', pids: '9' },
      volumes: [
        { name: 'v', target: '/v', readonly: true },
        { name: 'w', target: '/w' },
      ],
      user: 'u',
      workingDir: '/x',
      readOnlyRootFilesystem: true,
      labels: { l: 'm' },
    },
    { service: 'f', image: 'new', timeout: '9s' },
  ])
})

t.test('logs show hostile output without control characters', async (t) => {
  const url = await serve(t, (_request, reply) => {
    reply.end('{"timestamp":"2026-01-01T00:00:00.000Z","instance":"c1","text":"a\\u001b[2J\\nb\\n"}\n')
  })
  const { context, out } = capture({ WHERRY_GATEWAY_URL: url.href })
  t.equal(await runProgram(['logs', 'f'], context), 0)
  t.equal(out(), '2026-01-01T00:00:00.000Z c1 a�[2J\n2026-01-01T00:00:00.000Z c1 b\n')
})

t.test('the gateway comes from the option, the environment, or the default, in that order', async (t) => {
  const { context } = capture({ WHERRY_GATEWAY_URL: 'http://env:1', WHERRY_DATA: t.testdir() })
  t.equal(connectGateway('x', { gateway: 'host:2/' }, context).url, 'http://host:2')
  t.equal(connectGateway('x', {}, context).url, 'http://env:1')
  t.equal(connectGateway('x', {}, capture({ WHERRY_DATA: t.testdir() }).context).url, 'http://127.0.0.1:8080')
})

t.test('processes', async (t) => {
  t.test('are identical only with the same start time', async (t) => {
    const own = identityOf(process.pid)!
    t.ok(isAlive(own))
    t.notOk(isAlive({ ...own, startTime: '1' }))
    t.equal(startTimeOf(4_194_305), undefined, 'above the largest pid')
  })
  t.test('count as gone once they are zombies', async (t) => {
    const child = spawn('sleep', ['100'])
    const identity = identityOf(child.pid!)!
    child.kill('SIGKILL')
    t.same(await waitUntilGone([identity], 10_000), [])
    t.same(
      await waitUntilGone([identityOf(process.pid)!], 1),
      [identityOf(process.pid)],
      'one that remains is named',
    )
  })
})

t.test('the data folder', async (t) => {
  const state = {
    gateway: 'http://g',
    registry: 'r',
    redis: 'unix:///s',
    data: '/d',
    worker: 'http://w',
    supervisor: identityOf(process.pid)!,
    parts: [],
  }
  t.test('has one holder at a time', async (t) => {
    const dir = t.testdir()
    const lock = lockDataDir(dir)
    t.same(readHolder(dir), identityOf(process.pid))
    t.throws(() => lockDataDir(dir), {
      what: 'up',
      message: `${dir} is in use by another wherry up (pid ${process.pid})`,
    })
    writeState(dir, state)
    t.same(readState(dir), state)
    lock.release()
    t.equal(readHolder(dir), undefined)
    t.same(readdirSync(dir), [], 'nothing of it remains')
  })
  t.test('is free once its holder is dead, even if another process has its pid', async (t) => {
    for (const stale of ['4194305 1\n', `${process.pid} 1\n`, 'half a fi']) {
      const dir = t.testdir({ 'up.pid': stale })
      t.equal(readHolder(dir), undefined)
      lockDataDir(dir)
      t.equal(readFileSync(`${dir}/up.pid`, 'utf8').split(' ')[0], String(process.pid))
      t.same(readdirSync(dir), ['up.pid'])
    }
  })
  t.test('has no state if the state file is truncated', async (t) => {
    const dir = t.testdir()
    writeFileSync(`${dir}/state.json`, '{"gateway": "http')
    t.equal(readState(dir), undefined)
  })
})

t.test('probed ports are free and different, and a taken one is named', async (t) => {
  const any = { host: '127.0.0.1', port: 0 }
  const probes = ['a', 'b', 'c'].map((part) => ({ part, option: `--${part}`, address: any }))
  const found = await probePorts(probes)
  t.equal(new Set(found.map((address) => address.port)).size, 3)
  t.same(
    await probePorts([{ part: 'a', option: '--a', address: found[0]! }]),
    [found[0]],
    'they are released afterwards',
  )
  const url = await serve(t, () => {})
  await t.rejects(
    probePorts([
      { part: 'registry', option: '--registry', address: { host: '127.0.0.1', port: Number(url.port) } },
    ]),
    { what: 'registry', message: `${url.host} is in use by another process` },
  )
  await t.rejects(probePorts([{ part: 'x', option: '--x', address: { host: '203.0.113.1', port: 1 } }]), {
    message: '203.0.113.1 is not an address of this machine',
  })
})

/**
 * A part that runs SCRIPT in Node and is ready once it prints "ready". BEGUN is called with each ready
 * process.
 */
function nodePart(
  t: Test,
  script: string,
  events: Partial<PartEvents> = {},
  begun: (child: ChildProcess) => void = () => {},
): ReturnType<typeof createPart> & { pids: number[] } {
  const pids: number[] = []
  const part = createPart(
    {
      name: 'part',
      readyTimeoutMs: 20_000,
      stopTimeoutMs: 200,
      spawn() {
        const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'pipe'], env: {} })
        pids.push(child.pid!)
        return child
      },
      ready: (child: ChildProcess) =>
        new Promise((resolve) => {
          child.stdout!.on('data', (data) => {
            if (!String(data).includes('ready')) return
            resolve('here')
            setImmediate(begun, child) // once the part knows that it is ready
          })
        }),
    },
    { onLine() {}, onRestart() {}, onGiveUp() {}, ...events },
  )
  t.teardown(() => part.stop())
  return Object.defineProperty(part, 'pids', { value: pids }) as ReturnType<typeof nodePart>
}

const SERVES = 'console.log("ready"); setInterval(() => {}, 1000)'

t.test('a supervised part', async (t) => {
  t.test('starts, and can be stopped more than once', async (t) => {
    const part = nodePart(t, SERVES)
    await part.stop()
    const other = nodePart(t, SERVES)
    t.equal(await other.start(), 'here')
    t.ok(isAlive(other.identity!))
    await other.stop()
    await other.stop()
    t.notOk(isAlive(other.identity!))
  })
  t.test('is killed if it does not stop in time', async (t) => {
    const part = nodePart(t, `process.on("SIGTERM", () => {}); ${SERVES}`)
    await part.start()
    await part.stop()
    t.notOk(isAlive(part.identity!))
  })
  t.test('that fails to start fails with its last output', async (t) => {
    const part = nodePart(t, 'console.error("out of luck"); process.exitCode = 7')
    await t.rejects(part.start(), {
      what: 'part',
      message: 'it exited with code 7',
      faults: [{ path: '', problem: 'out of luck' }],
    })
  })
  t.test('that dies is restarted', async (t) => {
    const restarted = Promise.withResolvers<string>()
    const part = nodePart(t, SERVES, {
      onRestart: (_name, why) => {
        restarted.resolve(why)
      },
    })
    await part.start()
    process.kill(part.pids[0]!, 'SIGKILL')
    t.equal(await restarted.promise, 'it was killed by SIGKILL')
    t.equal(part.pids.length, 2)
    t.equal(part.identity?.pid, part.pids[1])
  })
  t.test('that keeps dying is given up, with the number of deaths', async (t) => {
    const gaveUp = Promise.withResolvers<Failure>()
    const part = nodePart(
      t,
      'process.on("SIGTERM", () => process.exit(3)); ' + SERVES,
      {
        onGiveUp: (failure) => {
          gaveUp.resolve(failure)
        },
      },
      (child) => {
        child.kill('SIGTERM')
      },
    )
    await part.start()
    t.match(await gaveUp.promise, {
      what: 'part',
      message: 'it exited with code 3, for the 6th time in 30 s',
    })
  })
})

t.test('the progress of a pull', async (t) => {
  const layer = (state: LayerState, receivedBytes: number) => ({
    layer: `sha256:${'ab'.repeat(32)}`,
    state,
    receivedBytes,
    sizeBytes: 4 * 1024 ** 2,
    unpackedBytes: 2 * receivedBytes,
  })
  const shownOn = (isTTY: boolean, quiet: boolean, columns = 80): string => {
    const stderr = Object.assign(new PassThrough({ encoding: 'utf8' }), { isTTY, columns })
    const context: Context = {
      env: {},
      stdin: new PassThrough(),
      stdout: new PassThrough(),
      stderr,
      tellParent() {},
      onSignal: () => () => {},
      setExitCode() {},
    }
    const progress = createProgress(context, { quiet })
    for (const [state, mib] of [
      ['queued', 0],
      ['receiving', 0],
      ['receiving', 1],
      ['unpacking', 4],
      ['unpacking', 4],
      ['done', 4],
    ] as const)
      progress.onLayer(layer(state, mib * 1024 ** 2))
    progress.end()
    return String(stderr.read() ?? '')
  }
  t.match(
    shownOn(false, false),
    /^abababababab {2}4.0 MiB\nabababababab {2}4.0 MiB in \d+ms\n$/,
    'two plain lines without a terminal',
  )
  t.match(shownOn(true, false), /^abababababab {2}4.0 MiB in \d+ms\n$/, 'one line on a terminal')
  t.match(
    shownOn(true, false, 24),
    /^abababababab {2}4.0 Mi.*…\n$/,
    'which fits, because a line that wraps cannot be repainted',
  )
  t.equal(shownOn(false, true), '')
  const describe = (state: LayerState, width?: number): string =>
    describeLayer({ ...layer(state, 1024 ** 2), startedAt: 0, heardAt: 400 }, 500, width)
  t.equal(describe('done'), '4.0 MiB in 400ms', 'the duration, not the age')
  t.equal(
    describe('receiving', 60),
    '[====>              ] 1.0 MiB of 4.0 MiB  2.0 MiB/s  1s left',
    'the bar gives way first',
  )
  t.equal(describe('receiving', 44), '1.0 MiB of 4.0 MiB  2.0 MiB/s  1s left')
  t.equal(describe('receiving'), '[=====>               ] 1.0 MiB of 4.0 MiB  2.0 MiB/s  1s left')
  t.equal(describe('queued'), '4.0 MiB, waiting')
  t.equal(describe('unpacking'), '4.0 MiB received, unpacking (2.0 MiB so far)')
  t.equal(describe('present'), '4.0 MiB, already exists')
})

t.test('the exit status of a child is that of a shell', async (t) => {
  const ends: ReadonlyArray<readonly [script: string, code: number]> = [
    ['exit 0', 0],
    ['exit 7', 7],
    ['kill -KILL $$', 137],
    ['kill -TERM $$', 143],
  ]
  for (const [script, code] of ends) t.equal(await exitCodeOf(spawn('sh', ['-c', script])), code, script)
  await t.rejects(exitCodeOf(spawn('/nothing')), { code: 'ENOENT' })
})

t.test('a pull with more layers than lines shows those in progress', async (t) => {
  const stderr = Object.assign(new PassThrough({ encoding: 'utf8' }), { isTTY: true, columns: 80, rows: 4 })
  const context: Context = {
    env: {},
    stdin: new PassThrough(),
    stdout: new PassThrough(),
    stderr,
    tellParent() {},
    onSignal: () => () => {},
    setExitCode() {},
  }
  const progress = createProgress(context, { quiet: false })
  const states: readonly LayerState[] = [
    'done',
    'receiving',
    'done',
    'unpacking',
    'queued',
    'queued',
    'present',
  ]
  for (const [i, state] of states.entries())
    progress.onLayer({ layer: `sha256:${i}`, state, receivedBytes: 1, sizeBytes: 2, unpackedBytes: 0 })
  progress.end()
  t.same(
    String(stderr.read())
      .split('\n')
      .map((line) => line.slice(0, 1)),
    ['1', '3', '4', ''],
    'three lines, as many as can be repainted',
  )
})

t.test('a command that is interrupted', async (t) => {
  const listeners = new Set<(signal: NodeJS.Signals) => void>()
  const interrupt = (): void => {
    for (const listener of listeners) listener('SIGINT')
  }
  const context: Context = {
    env: {},
    stdin: new PassThrough(),
    stdout: new PassThrough(),
    stderr: new PassThrough(),
    tellParent() {},
    setExitCode() {},
    onSignal(listener) {
      listeners.add(listener)
      return () => {
        listeners.delete(listener)
      }
    },
  }
  const INTERRUPTED = { name: 'Failure', what: 'push', message: 'interrupted' }

  t.test('handles only the first signal; the second one has its default action', async (t) => {
    const work = interruptible(
      'push',
      context,
      (signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => {
            reject(new Error('half done'))
          })
        }),
    )
    interrupt()
    t.equal(listeners.size, 0)
    await t.rejects(work, INTERRUPTED)
  })

  t.test('fails even if its work was nearly done', async (t) => {
    await t.rejects(
      interruptible('push', context, async () => {
        interrupt()
      }),
      INTERRUPTED,
    )
  })

  t.test('stops handling signals when its work is over', async (t) => {
    t.equal(await interruptible('push', context, async () => 5), 5)
    await t.rejects(
      interruptible('push', context, async () => {
        throw new Error('own')
      }),
      { message: 'own' },
    )
    t.equal(listeners.size, 0)
  })
})

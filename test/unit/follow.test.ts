// Following a container: its pipes, its time and its end. The container is a value whose pipes are FIFOs that
// this test keeps open, as a process does that was handed the descriptor over a socket. A pipe held like that
// never reports its end.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, mkdirSync, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { runInContainer, type RunRequest } from '../../services/build/run-container.ts'
import type { Container, ContainerExit } from '../../services/runtime/container.ts'
import { follow } from '../../services/runtime/follow.ts'

const PIPE_MAX_BYTES = 1 << 20
const EXIT: ContainerExit = {
  exitCode: 0,
  signal: undefined,
  usage: {
    cpuMs: 1,
    memoryPeakBytes: 1,
    oomKills: 0,
    cpuPeriods: 0,
    cpuThrottledPeriods: 0,
    cpuThrottledMs: 0,
  },
  endedAt: 5,
}

/** A container with three pipes and no program. */
function setup(t: Test) {
  const folder = t.testdir()
  const pipe = (name: string): { path: string; fd: number } => {
    const path = join(folder, name)
    execFileSync('mkfifo', [path])
    return { path, fd: openSync(path, constants.O_RDWR | constants.O_NONBLOCK) }
  }
  const [stdin, stdout, stderr] = [pipe('stdin'), pipe('stdout'), pipe('stderr')]
  const held = [stdin, stdout, stderr].map(({ path }) =>
    openSync(path, constants.O_RDWR | constants.O_NONBLOCK),
  )
  t.teardown(() => held.forEach((fd) => closeSync(fd)))
  const { promise: exited, resolve } = Promise.withResolvers<ContainerExit>()
  let kills = 0
  const container: Container = {
    pid: 1,
    stdin: stdin.fd,
    stdout: stdout.fd,
    stderr: stderr.fd,
    exited,
    kill() {
      kills++
      resolve({ ...EXIT, exitCode: undefined, signal: 'SIGKILL' })
    },
    async pause() {},
    resume() {},
  }
  const output = { stdout: '', stderr: '' }
  const caller = new AbortController()
  const options = {
    body: Buffer.alloc(0),
    timeoutMs: 60_000,
    signal: caller.signal,
    onStdout: (chunk: Buffer): void => void (output.stdout += chunk.toString()),
    onStderr: (chunk: Buffer): void => void (output.stderr += chunk.toString()),
  }
  return {
    container,
    options,
    output,
    caller,
    folder,
    exit: () => resolve(EXIT),
    kills: () => kills,
    /** Write TEXT to pipe N as the program would. */
    write: (n: 1 | 2, text: string) => writeSync(held[n]!, text),
    readStdin: (buffer: Buffer) => readSync(held[0]!, buffer),
    stdoutPath: stdout.path,
  }
}

t.test('a held pipe does not delay the end, and output from before the exit is complete', async (t) => {
  const { container, options, output, write, exit } = setup(t)
  write(1, 'first ')
  const followed = follow(container, options)
  await new Promise((resolve) => {
    setImmediate(resolve)
  })
  write(1, 'last')
  write(2, 'log')
  exit()
  t.match(await followed, { ...EXIT, timedOut: false })
  t.same(output, { stdout: 'first last', stderr: 'log' })
})

t.test('a writer that never stops is cut off after at most what a pipe can hold', async (t) => {
  const { container, options, stdoutPath, exit } = setup(t)
  let afterExit = 0
  let exited = false
  const writer = spawn('/bin/sh', ['-c', 'exec cat /dev/zero > "$0"', stdoutPath], { stdio: 'ignore' })
  t.teardown(async () => {
    writer.kill('SIGKILL')
    await once(writer, 'exit')
  })
  const flowing = Promise.withResolvers<void>()
  const followed = follow(container, {
    ...options,
    onStdout(chunk) {
      flowing.resolve()
      if (exited) afterExit += chunk.length
    },
  })
  await flowing.promise
  exited = true
  exit()
  await followed
  t.ok(afterExit <= 256 * 65_536, `${afterExit} bytes after the exit`)
})

t.test('a container past its timeout is killed and reported as timed out', async (t) => {
  const { container, options, kills } = setup(t)
  t.match(await follow(container, { ...options, timeoutMs: 10 }), { signal: 'SIGKILL', timedOut: true })
  t.equal(kills(), 1)
})

t.test('an abort kills the container, also one from before the start', async (t) => {
  for (const isEarly of [true, false]) {
    await t.test(isEarly ? 'before' : 'while it runs', async (t) => {
      const { container, options, caller, kills } = setup(t)
      if (isEarly) caller.abort()
      const followed = follow(container, options)
      if (!isEarly) caller.abort()
      t.match(await followed, { signal: 'SIGKILL', timedOut: false })
      t.equal(kills(), 1)
    })
  }
})

t.test('an abort after the end kills nothing', async (t) => {
  const { container, options, caller, exit, kills } = setup(t)
  exit()
  await follow(container, options)
  caller.abort()
  t.equal(kills(), 0)
})

t.test('a body that the program never reads does not delay the end', async (t) => {
  const { container, options, exit, readStdin } = setup(t)
  const followed = follow(container, { ...options, body: Buffer.alloc(PIPE_MAX_BYTES + 1, 'x') })
  await new Promise((resolve) => {
    setTimeout(resolve, 20)
  })
  exit()
  t.match(await followed, { exitCode: 0 })
  t.ok(readStdin(Buffer.alloc(65_536)) > 0, 'the pipe was filled')
})

t.test('a small body is written at once', async (t) => {
  const { container, options, exit, readStdin } = setup(t)
  const followed = follow(container, { ...options, body: Buffer.from('hello') })
  const buffer = Buffer.alloc(16)
  t.equal(buffer.subarray(0, readStdin(buffer)).toString(), 'hello')
  exit()
  await followed
})

t.test('a build step', async (t) => {
  function step(t: Test) {
    const parts = setup(t)
    const draft = join(parts.folder, 'draft')
    mkdirSync(draft)
    let output = ''
    const chunks: Buffer[] = []
    const request: RunRequest = {
      draft,
      layers: [],
      args: ['/bin/sh'],
      env: [],
      cwd: '/',
      user: { uid: 0, gid: 0, additionalGids: [] },
      mounts: [],
      network: 'none',
      memoryBytes: 1 << 30,
      cpus: 1,
      onOutput(bytes) {
        chunks.push(bytes)
        output += bytes.toString()
      },
      signal: parts.caller.signal,
    }
    const started = Promise.withResolvers<RuntimeSpec>()
    const runtime = {
      start(spec: RuntimeSpec) {
        started.resolve(spec)
        return parts.container
      },
      running: 0,
      async close() {},
    }
    return {
      ...parts,
      started: started.promise,
      ran: runInContainer(runtime, request),
      output: () => output,
      chunks,
    }
  }

  await t.test('ends with its container while another process holds its output', async (t) => {
    const { started, ran, write, exit, output, chunks } = step(t)
    await started
    write(1, 'one\n')
    await new Promise((resolve) => {
      setTimeout(resolve, 20)
    })
    write(1, 'two\n')
    exit()
    await t.resolves(ran)
    t.equal(output(), 'one\ntwo\n')
    t.equal(Buffer.concat(chunks).toString(), 'one\ntwo\n', 'chunks are copies and may be kept')
  })
  await t.test('of an aborted build is killed and rejects with the reason of the abort', async (t) => {
    const { started, ran, caller, kills } = step(t)
    await started
    const reason = new Error('interrupted')
    caller.abort(reason)
    await t.rejects(ran, reason)
    t.equal(kills(), 1)
  })
})

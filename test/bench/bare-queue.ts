// Plain BullMQ for comparison: one queue, a worker with an empty processor in a child process, and results
// through QueueEvents. Run as a program, this file is that worker.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Queue, QueueEvents, Worker } from 'bullmq'
import { Redis } from 'ioredis'

const NAME = 'bare'
const PREFIX = '{bench}'
const PATH = fileURLToPath(import.meta.url)
const RESULT_WAIT_MS = 10_000

function connect(url: string): Redis {
  const options = { maxRetriesPerRequest: null }
  return url.startsWith('unix://')
    ? new Redis({ ...options, path: url.slice('unix://'.length) })
    : new Redis(url, options)
}

export interface BareQueue {
  roundTrip(): Promise<unknown>
  close(): Promise<void>
}

/** Start the worker process and a producer on the Redis at URL. */
export async function startBareQueue(url: string): Promise<BareQueue> {
  const worker = fork(PATH, [url], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  await once(worker, 'message')
  const connections = [connect(url), connect(url)] as const
  const queue = new Queue(NAME, {
    connection: connections[0],
    prefix: PREFIX,
    defaultJobOptions: { removeOnComplete: { count: 100 } },
  })
  const events = new QueueEvents(NAME, { connection: connections[1], prefix: PREFIX })
  await Promise.all([queue.waitUntilReady(), events.waitUntilReady()])
  return {
    roundTrip: async () => await (await queue.add('job', {})).waitUntilFinished(events, RESULT_WAIT_MS),
    async close() {
      worker.kill('SIGTERM')
      await once(worker, 'exit')
      await queue.obliterate({ force: true })
      await Promise.all([queue.close(), events.close()])
      for (const connection of connections) connection.disconnect()
    },
  }
}

if (process.argv[1] === PATH) {
  const worker = new Worker(NAME, async () => 'done', {
    connection: connect(process.argv[2]!),
    prefix: PREFIX,
  })
  await worker.waitUntilReady()
  process.send!('ready')
}

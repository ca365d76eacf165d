// A queue for tests: real dispatchers and producers with a key prefix per test, and a function of the test as
// `run` instead of a container. All of them are stopped when the test ends.

import { randomUUID } from 'node:crypto'
import { Queue, type Job } from 'bullmq'
import type { Completion } from '../../services/contract/call-record.ts'
import type { Invocation } from '../../services/contract/invocation.ts'
import { createLog } from '../../services/platform/log.ts'
import { createDispatcher, type Dispatcher, type DispatcherDeps } from '../../services/queue/dispatcher.ts'
import { createProducer, type Producer, type ProducerDeps } from '../../services/queue/producer.ts'
import type { TestRedis } from './redis.ts'

export const log = createLog({ name: 'test', level: 'silent' })

interface Teardown {
  teardown(work: () => unknown): void
}

export function completion(
  given: Partial<Omit<Completion, 'body'>> & { body?: string | Uint8Array } = {},
): Completion {
  const { body = '', ...rest } = given
  return {
    outcome: 'ok',
    start: 'cold',
    phases: { pull: 0, create: 0.5, init: 0, run: 1 },
    contentType: 'text/plain',
    log: '',
    logTruncated: false,
    endedAt: performance.now(),
    ...rest,
    body: typeof body === 'string' ? Buffer.from(body) : body,
  }
}

/** Returns the body that it was sent. */
export const echo: DispatcherDeps['run'] = async (invocation) => completion({ body: invocation.request.body })

export function invocation(
  name: string,
  given: Partial<Invocation> & { body?: string | Uint8Array } = {},
): Invocation {
  const { body = '', ...rest } = given
  return {
    callId: randomUUID(),
    function: name,
    attempt: 1,
    enqueuedAtMs: Date.now(),
    request: {
      method: 'POST',
      path: '/',
      query: '',
      headers: {},
      body: typeof body === 'string' ? Buffer.from(body) : body,
    },
    ...rest,
  }
}

/** A promise that the test resolves itself. */
export function gate<T = void>(): PromiseWithResolvers<T> {
  return Promise.withResolvers<T>()
}

/** Polls until CONDITION holds, for conditions that no event announces. */
export async function until(condition: () => unknown, timeoutMs = 60_000): Promise<void> {
  const deadline = Date.now() + timeoutMs
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not true within ${timeoutMs} ms: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

export interface Rig {
  readonly prefix: string
  dispatcher(functions: readonly string[], deps?: Partial<DispatcherDeps>): Promise<Dispatcher>
  producer(deps?: Partial<ProducerDeps>): Promise<Producer>
  /** A plain BullMQ queue, as any producer has. */
  queue(name: string): Queue
  /** Resolves with the job's return value, rejects with its failedReason. */
  finished(job: Job): Promise<unknown>
}

export function queueRig(t: Teardown, redis: TestRedis): Rig {
  const prefix = `{t-${randomUUID().slice(0, 8)}}`
  const connection = { path: redis.socketPath }
  const queues = new Map<string, Queue>()
  return {
    prefix,
    async dispatcher(functions, deps = {}) {
      const dispatcher = createDispatcher({
        redisUrl: redis.url,
        prefix,
        workerName: 'worker-1',
        callsMax: 8,
        run: echo,
        log,
        ...deps,
      })
      t.teardown(() => dispatcher.stop(500))
      dispatcher.watch(functions)
      await dispatcher.start()
      return dispatcher
    },
    async producer(deps = {}) {
      const producer = createProducer({
        redisUrl: redis.url,
        prefix,
        gatewayId: `g-${randomUUID().slice(0, 8)}`,
        log,
        ...deps,
      })
      t.teardown(() => producer.stop())
      await producer.start()
      return producer
    },
    queue(name) {
      const known = queues.get(name)
      if (known) return known
      const queue = new Queue(name, { prefix, connection })
      queue.on('error', () => undefined)
      queues.set(name, queue)
      t.teardown(() => queue.close())
      return queue
    },
    async finished(job) {
      const id = job.id ?? ''
      // QueueEvents would miss a job that ends before its first read.
      await until(async () => ['completed', 'failed'].includes(await job.getState()))
      const ended = await queues.get(job.queueName)?.getJob(id)
      if (ended === undefined) throw new Error(`job ${id} is gone`)
      if (await ended.isFailed()) throw new Error(ended.failedReason)
      return ended.returnvalue
    },
  }
}

// Removal of a deleted function's queue. Once the queue is gone no worker can settle its calls, so they are
// settled here as `cancelled`, and no caller waits for an end that cannot come. A running call loses its
// lease, and its worker aborts it.

import type { Queue } from 'bullmq'
import { endedRecord, replyOf } from '../contract/call-end.ts'
import { isPlainObject } from '../contract/plain-object.ts'
import type { RedisClient } from '../platform/redis.ts'
import { isCallId, isGatewayId } from './job-data.ts'
import { FINISHED_TTL_MS, keysOf, type Keys } from './keys.ts'
import { parseRecord, valuesOf } from './record.ts'

const CHUNK_CALLS = 500

interface OpenCall {
  readonly callId: string
  readonly replyTo: string | undefined
}

/** Remove QUEUE and its function's logs and count.  Throws what REDIS throws, and may then be repeated. */
export async function forgetFunction(redis: RedisClient, prefix: string, queue: Queue): Promise<void> {
  const keys = keysOf(prefix)
  await queue.pause()
  const calls = await openCalls(redis, keys, queue.name)
  await queue.obliterate({ force: true })
  for (let i = 0; i < calls.length; i += CHUNK_CALLS)
    await cancel(redis, keys, queue.name, calls.slice(i, i + CHUNK_CALLS))
  valuesOf(await redis.pipeline().del(keys.logs(queue.name)).hdel(keys.counts, queue.name).exec())
}

/** Calls of gateways that are waiting or running. */
async function openCalls(redis: RedisClient, keys: Keys, name: string): Promise<OpenCall[]> {
  const lists = await Promise.all([
    redis.lrange(keys.queue(name, 'wait'), 0, -1),
    redis.lrange(keys.queue(name, 'active'), 0, -1),
    redis.zrange(keys.queue(name, 'prioritized'), '0', '-1'),
    redis.zrange(keys.queue(name, 'delayed'), '0', '-1'),
  ])
  const callIds = lists.flat().filter(isCallId)
  const found: OpenCall[] = []
  for (let i = 0; i < callIds.length; i += CHUNK_CALLS) {
    const chunk = callIds.slice(i, i + CHUNK_CALLS)
    const pipeline = redis.pipeline()
    for (const callId of chunk) pipeline.hget(keys.queue(name, callId), 'data')
    for (const [j, data] of valuesOf(await pipeline.exec()).entries())
      found.push({ callId: chunk[j]!, replyTo: replyToOf(data) })
  }
  return found
}

async function cancel(
  redis: RedisClient,
  keys: Keys,
  name: string,
  calls: readonly OpenCall[],
): Promise<void> {
  const texts = await redis.mget(calls.map(({ callId }) => keys.call(callId)))
  const pipeline = redis.pipeline()
  for (const [i, { callId, replyTo }] of calls.entries()) {
    const record = parseRecord(texts[i])
    if (record === undefined || record.state === 'finished' || record.function !== name) continue
    const last = endedRecord(record, 'cancelled', `function "${name}" was removed`)
    pipeline.set(keys.call(callId), JSON.stringify(last), 'PX', FINISHED_TTL_MS).del(keys.body(callId))
    if (replyTo !== undefined) pipeline.publish(keys.reply(replyTo), JSON.stringify(replyOf(last)))
  }
  valuesOf(await pipeline.exec())
}

function replyToOf(data: unknown): string | undefined {
  try {
    const value: unknown = typeof data === 'string' ? JSON.parse(data) : undefined
    const replyTo = isPlainObject(value) ? value['replyTo'] : undefined
    return isGatewayId(replyTo) ? replyTo : undefined
  } catch {
    return undefined // not a gateway's job
  }
}

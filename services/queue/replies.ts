// The way back: one channel per gateway on which the replies of finished calls arrive, and who waits for
// which. A message can be lost while the connection is broken, so the owner reads the records of all expected
// calls again on `onListening`.

import { Conflict, Overloaded } from '../contract/errors.ts'
import type { CallReply } from '../contract/call-record.ts'
import type { Log } from '../platform/log.ts'
import { openRedis, type RedisClient } from '../platform/redis.ts'
import { parseReply } from './record.ts'

/** What ended a wait: the call's reply, or why there is none yet. */
export type Answer = CallReply | 'late' | 'aborted' | 'stopped'

export interface Expected {
  /** Wait for the reply, at most WAITMS and until SIGNAL aborts; may be called again. */
  wait(waitMs: number, signal?: AbortSignal): Promise<Answer>
  end(): void
}

export interface Replies {
  start(): void
  stop(): void
  /**
   * Listen for CALLID from now on. Throws Conflict when it is already expected here, Overloaded when too many
   * calls wait.
   */
  expect(callId: string): Expected
  /** Accept a reply that was found in a record. */
  deliver(reply: CallReply): void
  readonly expected: Iterable<string>
}

const EXPECTED_MAX = 10_000

export interface RepliesDeps {
  readonly redisUrl: string
  readonly channel: string
  /** Called after each subscription to the channel: earlier messages may have been missed. */
  readonly onListening: () => void
  readonly log: Log
}

export function createReplies({ redisUrl, channel, onListening, log }: RepliesDeps): Replies {
  const waiting = new Map<string, PromiseWithResolvers<CallReply | 'stopped'>>()
  let subscriber: RedisClient | undefined

  const deliver = (reply: CallReply): void => waiting.get(reply.callId)?.resolve(reply)

  return {
    start() {
      const listening = openRedis(redisUrl, {
        temper: 'patient',
        name: 'wherry-gateway-replies',
        onError: (error) => log.warn({ err: error }, 'Redis is away; replies are delayed'),
      })
      subscriber = listening
      listening.on('message', (_channel: string, text: string) => {
        const reply = parseReply(text)
        if (reply === undefined)
          log.warn({ channel }, 'a message on the reply channel is not a reply and is ignored')
        else deliver(reply)
      })
      listening.on('ready', () => {
        listening
          .subscribe(channel)
          .then(onListening, (error: unknown) =>
            log.debug({ err: error }, 'the subscription to the reply channel failed; retrying on reconnect'),
          )
      })
    },

    stop() {
      subscriber?.disconnect()
      subscriber = undefined
      for (const { resolve } of waiting.values()) resolve('stopped')
    },

    expect(callId) {
      if (waiting.size >= EXPECTED_MAX)
        throw new Overloaded(`${EXPECTED_MAX} callers already wait here; try again later`, 'ERR_NO_SLOT')
      if (waiting.has(callId)) throw new Conflict(`a call "${callId}" already exists`, 'ERR_CALL_EXISTS')
      const reply = Promise.withResolvers<CallReply | 'stopped'>()
      waiting.set(callId, reply)
      return {
        async wait(waitMs, signal) {
          const other = Promise.withResolvers<'late' | 'aborted'>()
          const timer = setTimeout(other.resolve, waitMs, 'late')
          const abort = (): void => other.resolve('aborted')
          signal?.addEventListener('abort', abort)
          if (signal?.aborted) abort()
          const answer = await Promise.race([reply.promise, other.promise])
          clearTimeout(timer)
          signal?.removeEventListener('abort', abort)
          return answer
        },
        end() {
          waiting.delete(callId)
        },
      }
    },

    deliver,
    get expected() {
      return waiting.keys()
    },
  }
}

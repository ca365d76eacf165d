// Serving the calls of a lane that lives in memory: what holds for every lane, without Redis and BullMQ.

import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import type { CallRecord, Completion } from '../../services/contract/call-record.ts'
import type { Invocation } from '../../services/contract/invocation.ts'
import { AppError } from '../../services/contract/errors.ts'
import { serveCalls, type CallServerDeps } from '../../services/queue/serve-calls.ts'
import type { Announced, CallSource, TakenCall } from '../../services/queue/taken-call.ts'
import { completion, gate, invocation, log, until } from '../helpers/queue-rig.ts'

type End = { readonly id: string; readonly end: string; readonly completion?: Completion }

/** A lane in memory; `ends` has every end of a call in order. */
function memoryLane({
  retries = 'done',
  lost = false,
}: { readonly retries?: 'done' | 'refused'; readonly lost?: boolean } = {}) {
  const ends: End[] = []
  const held = new Set<TakenCall>()
  const announced: Announced[] = []
  const passed: string[] = []
  let arrived = Promise.withResolvers<void>()
  let quiet = false

  const recordOf = (call: Invocation | Completion, { outcome }: Completion): CallRecord | undefined =>
    lost
      ? undefined
      : {
          callId: 'callId' in call ? call.callId : '',
          function: 'f',
          state: 'finished',
          attempt: 1,
          enqueuedAtMs: 0,
          outcome,
        }

  function takenOf(id: string, call: Invocation | Completion, attemptsLeft: number): TakenCall {
    const controller = new AbortController()
    const taken: TakenCall = {
      function: 'f',
      id,
      call,
      attempt: 1,
      attemptsLeft,
      signal: controller.signal,
      renew: async () => true,
      async retry(completion) {
        ends.push({ id, end: `retry ${retries}`, completion })
        return retries === 'refused' ? 'refused' : recordOf(call, completion)
      },
      async finish(completion) {
        ends.push({ id, end: 'finish', completion })
        return recordOf(call, completion)
      },
      async giveBack() {
        ends.push({ id, end: 'giveBack' })
      },
      release: () => held.delete(taken),
      abort: (reason) => controller.abort(reason),
    }
    return taken
  }

  const source: CallSource = {
    start: () => undefined,
    quiet() {
      quiet = true
      arrived.resolve()
    },
    stop: async () => undefined,
    watch: () => undefined,
    async next() {
      if (announced.length === 0 && !quiet) await arrived.promise
      arrived = Promise.withResolvers()
      return announced.shift()
    },
    held,
  }
  return {
    source,
    ends,
    passed,
    add(
      id: string,
      {
        call = invocation('f', { callId: id }),
        attemptsLeft = 0,
      }: { readonly call?: Invocation | Completion; readonly attemptsLeft?: number } = {},
    ) {
      announced.push({
        async take() {
          const taken = takenOf(id, call, attemptsLeft)
          held.add(taken)
          return taken
        },
        pass: () => passed.push(id),
      })
      arrived.resolve()
    },
  }
}

function setup(
  t: { teardown(work: () => unknown): void },
  deps: Partial<CallServerDeps> & Pick<CallServerDeps, 'run'>,
  lane = memoryLane(),
) {
  const settled: string[] = []
  const server = serveCalls({
    source: lane.source,
    callsMax: 2,
    log,
    onSettled: (record) => settled.push(`${record.callId} ${record.outcome}`),
    ...deps,
  })
  t.teardown(() => server.stop(0))
  return { lane, server, settled }
}

t.test('a call is served, finished and released', async (t) => {
  const { lane, settled } = setup(t, { run: async ({ request }) => completion({ body: request.body }) })
  lane.add('a', { call: invocation('f', { callId: 'a', body: 'hello' }) })
  await until(() => lane.source.held.size === 0 && lane.ends.length === 1)
  t.match(lane.ends, [{ id: 'a', end: 'finish', completion: { outcome: 'ok', body: Buffer.from('hello') } }])
  t.same(settled, ['a ok'])
})

t.test('no more than `callsMax` calls run at once', async (t) => {
  const gates = new Map<string, PromiseWithResolvers<void>>()
  const { lane } = setup(t, {
    run: async ({ callId }) => {
      const own = gate()
      gates.set(callId, own)
      await own.promise
      return completion()
    },
  })
  for (const id of ['a', 'b', 'c']) lane.add(id)
  await until(() => gates.size === 2)
  for (let i = 0; i < 10; i++) await turn()
  t.same([...gates.keys()], ['a', 'b'])
  gates.get('b')!.resolve()
  await until(() => gates.has('c'))
  gates.get('a')!.resolve()
  gates.get('c')!.resolve()
  await until(() => lane.ends.length === 3)
  t.same(
    lane.ends.map(({ id }) => id),
    ['b', 'a', 'c'],
  )
})

t.test('which failures are retried', async (t) => {
  const fails = async (given: Partial<Completion>, attemptsLeft: number, lane = memoryLane()) => {
    setup(t, { run: async () => ({ outcome: 'app_error', ...given }) }, lane)
    lane.add('a', { attemptsLeft })
    await until(() => lane.source.held.size === 0 && lane.ends.length > 0)
    return lane.ends.map(({ end }) => end)
  }
  t.same(await fails({}, 1), ['retry done'])
  t.same(await fails({}, 0), ['finish'], 'not after the last attempt')
  t.same(await fails({ final: true }, 1), ['finish'], 'not where another attempt cannot end differently')
  t.same(await fails({ outcome: 'too_large' }, 1), ['finish'], 'not where the outcome never changes')
  t.same(await fails({}, 1, memoryLane({ retries: 'refused' })), ['retry refused', 'finish'])
})

t.test('a call that the lane has already ended is settled without a run', async (t) => {
  let runs = 0
  const { lane } = setup(t, {
    run: async () => {
      runs++
      return completion()
    },
  })
  lane.add('a', { call: { outcome: 'expired' } })
  await until(() => lane.ends.length === 1)
  t.match(lane.ends, [{ end: 'finish', completion: { outcome: 'expired' } }])
  t.equal(runs, 0)
})

t.test('a thrown error is init_fail; only ours are shown', async (t) => {
  const refused = new AppError('no such user', {
    code: 'ERR_UNKNOWN_USER',
    statusCode: 500,
    retryable: false,
  })
  const thrown = [new Error('secret'), refused]
  const { lane } = setup(t, {
    callsMax: 1,
    run: async () => {
      throw thrown.shift()!
    },
  })
  lane.add('a')
  lane.add('b', { attemptsLeft: 5 })
  await until(() => lane.ends.length === 2)
  t.match(lane.ends, [
    { end: 'finish', completion: { outcome: 'init_fail', message: /^internal error/ } },
    { end: 'finish', completion: { outcome: 'init_fail', message: 'no such user', final: true } },
  ])
})

t.test('an end that does not count is not reported', async (t) => {
  const { lane, settled } = setup(t, { run: async () => completion() }, memoryLane({ lost: true }))
  lane.add('a')
  await until(() => lane.ends.length === 1 && lane.source.held.size === 0)
  t.same(settled, [])
})

t.test(
  'stop waits for calls, aborts and gives back the rest, and passes on what it did not take',
  async (t) => {
    const began = gate()
    const { lane, server, settled } = setup(t, {
      run: async (_call, { signal }) => {
        began.resolve()
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
        return completion()
      },
    })
    lane.add('a')
    await began.promise
    const stopped = server.stop(10)
    lane.add('late')
    await stopped
    await server.stop(10)
    t.same(
      lane.ends.map(({ id, end }) => `${id} ${end}`),
      ['a giveBack'],
      'the end of an aborted call is not settled',
    )
    t.same(settled, [])
    t.same(lane.passed, ['late'])
  },
)

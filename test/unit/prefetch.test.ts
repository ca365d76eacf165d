// The reports of a worker on the images of new deployments, and their order. The puller and the sink for
// reports are arguments.

import t from 'tap'
import { parseDeployment } from '../../services/contract/deployment.ts'
import type { FunctionRecord } from '../../services/contract/function-spec.ts'
import type { PullReport } from '../../services/functions/pull-reports.ts'
import type { PullResult } from '../../services/images/pull.ts'
import { createLog } from '../../services/platform/log.ts'
import { createPrefetch } from '../../services/worker/prefetch.ts'
import { createPullProgress } from '../../services/worker/pull-progress.ts'

// The timer of a delayed report does not keep a process alive, so the test does.
const alive = setInterval(() => {}, 1000)
t.teardown(() => clearInterval(alive))

const digestOf = (word: string): string => `sha256:${word.repeat(64)}`
const record = (service: string, word: string): FunctionRecord => ({
  spec: parseDeployment({ service, image: 'r.example/x' }),
  imageDigest: digestOf(word),
  createdAtMs: 0,
  updatedAtMs: 0,
})

function setup() {
  const said: PullReport[] = []
  const pulls: Array<PromiseWithResolvers<PullResult> & { readonly digest: string }> = []
  let pulled = 0
  let wake = (): void => {}
  const progress = createPullProgress()
  const prefetch = createPrefetch({
    progress,
    workerName: 'w',
    puller: {
      ensure(_ref, digest) {
        const pull = { ...Promise.withResolvers<PullResult>(), digest }
        pulls.push(pull)
        wake()
        return pull.promise
      },
    },
    reports: {
      async write(_digest, report) {
        said.push(report)
        wake()
      },
    },
    onPulled() {
      pulled++
    },
    log: createLog({ name: 'test', level: 'silent' }),
  })
  /** Resolves when IS holds; checked after each pull and each report. */
  async function until(is: () => boolean): Promise<void> {
    while (!is())
      await new Promise<void>((resolve) => {
        wake = resolve
      })
  }
  const finish = (i: number, isPulled: boolean): void =>
    pulls[i]!.resolve({ image: undefined as never, pulled: isPulled }) // the image is not used
  return { prefetch, progress, said, pulls, until, finish, pulled: () => pulled }
}

t.test('a function deployed before the worker started is pulled by its first call', async (t) => {
  const { prefetch, pulls } = setup()
  prefetch.deployed([record('a', 'a')])
  t.same(pulls, [])
})

t.test('a new deployment is pulled, and its final report comes last', async (t) => {
  const { prefetch, progress, said, pulls, until, finish, pulled } = setup()
  prefetch.deployed([])
  prefetch.deployed([record('a', 'a')])
  await until(() => pulls.length === 1)
  const layer = {
    layer: digestOf('1'),
    state: 'receiving',
    receivedBytes: 1,
    sizeBytes: 2,
    unpackedBytes: 0,
  } as const
  progress.report({ image: digestOf('a'), ...layer })
  progress.report({ image: digestOf('f'), ...layer })
  await until(() => said.length === 2)
  t.same(
    said.map((report) => [report.state, report.layers.length]),
    [
      ['pulling', 0],
      ['pulling', 1],
    ],
  )
  progress.report({ image: digestOf('a'), ...layer, state: 'done' }) // a delayed report
  finish(0, true)
  await until(() => said.length === 3)
  await new Promise((resolve) => {
    setTimeout(resolve, 250)
  }) // longer than a report is delayed
  t.same(
    said.map((report) => report.state),
    ['pulling', 'pulling', 'ready'],
  )
  t.equal(pulled(), 1, 'the store is notified')
})

t.test('an image deployed again during its pull is reported again', async (t) => {
  const { prefetch, said, pulls, until, finish, pulled } = setup()
  prefetch.deployed([])
  const [a, b] = [record('a', 'a'), record('b', 'a')]
  prefetch.deployed([a])
  await until(() => pulls.length === 1)
  prefetch.deployed([a, b])
  t.equal(pulls.length, 1, 'but not pulled twice at once')
  finish(0, true)
  await until(() => pulls.length === 2)
  finish(1, false)
  await until(() => said.length === 4)
  t.same(
    said.map((report) => report.state),
    ['pulling', 'ready', 'pulling', 'ready'],
  )
  t.equal(pulled(), 1)
})

t.test(
  'two images are pulled at a time; a failure is reported and the next starts; none starts after stop',
  async (t) => {
    const { prefetch, said, pulls, until, finish } = setup()
    prefetch.deployed([])
    prefetch.deployed(['a', 'b', 'c'].map((word) => record(word, word)))
    await until(() => pulls.length === 2)
    pulls[0]!.reject(new Error('secret of the machine'))
    await until(() => pulls.length === 3)
    t.match(
      said.find((report) => report.state === 'failed'),
      { worker: 'w', message: 'the worker failed; see its log' },
    )
    prefetch.deployed([record('d', 'd')])
    prefetch.stop()
    finish(1, false)
    finish(2, false)
    await until(() => said.filter((report) => report.state === 'ready').length === 2)
    t.equal(pulls.length, 3)
  },
)

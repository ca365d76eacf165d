// Settings: their sources and precedence, and that all errors are reported together.

import t from 'tap'
import { InvalidRequest } from '../../services/contract/errors.ts'
import { gatewaySettings } from '../../services/gateway/config.ts'
import { createLocalFirst } from '../../services/images/local-first.ts'
import { createPuller } from '../../services/images/pull.ts'
import { createImageStore } from '../../services/images/store.ts'
import {
  bytes,
  describeConfig,
  duration,
  ENV_NAMES,
  integer,
  listenAddress,
  logLevel,
  readConfig,
  readFlags,
  redactUrl,
  share,
  sharedSettings,
  text,
  url,
} from '../../services/platform/config.ts'
import { describeStartFailure } from '../../services/platform/lifecycle.ts'
import { createLog } from '../../services/platform/log.ts'
import { workerSettings } from '../../services/worker/config.ts'
import { createImageKeeper } from '../../services/worker/images.ts'

function faultsOf(read: () => unknown): string[] {
  try {
    read()
  } catch (err) {
    if (err instanceof InvalidRequest) return err.faults.map((f) => `${f.path}: ${f.problem}`)
    throw err
  }
  return []
}

t.test('readConfig', async (t) => {
  t.test('without settings, the documented defaults apply, frozen', async (t) => {
    const config = readConfig(gatewaySettings, {})
    t.match(config, {
      redisUrl: 'redis://127.0.0.1:6379',
      prefix: '{wherry}',
      dataDir: '/var/lib/wherry',
      logLevel: 'info',
      stopTimeoutMs: 30_000,
      listen: { host: '127.0.0.1', port: 8080 },
      bodyMaxBytes: 6 * 1024 ** 2,
      queueWaitMs: 60_000,
    })
    t.match(config.nativeDir, /\/build\/native$/)
    t.ok(Object.isFrozen(config))
    t.match(readConfig(workerSettings, {}).slots, Number)
  })

  t.test(
    'a flag overrides the environment, the environment the default, and an empty value counts as not set',
    async (t) => {
      const env = { WHERRY_BODY_MAX: '1Mi', WHERRY_QUEUE_WAIT: '5s', WHERRY_LOG_LEVEL: '' }
      const config = readConfig(gatewaySettings, env, { 'body-max': '2Mi' })
      t.match(config, { bodyMaxBytes: 2 * 1024 ** 2, queueWaitMs: 5000, logLevel: 'info' })
    },
  )

  t.test('all invalid values and unknown names are reported at once', async (t) => {
    const env = {
      WHERRY_REDIS_URL: 'http://x',
      WHERRY_BODY_MAX: '7 apples',
      WHERRY_REDIS: 'redis://x',
      HOME: '/root',
      WHERRY_WORKER_SLOTS: '4',
    }
    const faults = faultsOf(() => readConfig(gatewaySettings, env, { listen: 'nowhere' }))
    t.match(faults.sort(), [
      /^--listen: must be "host:port"/,
      /^WHERRY_BODY_MAX: must be a size/,
      /^WHERRY_REDIS: is not a setting/,
      /^WHERRY_REDIS_URL: must be a URL/,
    ])
    t.equal(faults.length, 4)
  })

  t.test('an invalid secret is not repeated in the message', async (t) => {
    t.notMatch(
      faultsOf(() => readConfig(sharedSettings, { WHERRY_REDIS_URL: 'rediss//:hunter2@h' })).join(),
      /hunter2/,
    )
  })

  t.test('every name in every table is a known name', async (t) => {
    for (const { env } of [...Object.values(gatewaySettings), ...Object.values(workerSettings)])
      t.ok(ENV_NAMES.includes(env), env)
  })
})

t.test('kinds accept what people write and nothing else', async (t) => {
  const table = [
    [listenAddress, '127.0.0.1:8080', { host: '127.0.0.1', port: 8080 }],
    [listenAddress, '[::1]:0', { host: '::1', port: 0 }],
    [listenAddress, 'localhost:65536', undefined],
    [listenAddress, ':8080', undefined],
    [listenAddress, '8080', undefined],
    [listenAddress, 'a b:1', undefined],
    [bytes({ min: 1, max: 1024 }), '1Ki', 1024],
    [bytes({ min: 1, max: 1024 }), '1025', undefined],
    [bytes({ min: 1, max: 1024 }), '-1', undefined],
    [duration({ min: 10, max: 60_000 }), '1m', 60_000],
    [duration({ min: 10, max: 60_000 }), '9ms', undefined],
    [duration({ min: 10, max: 60_000 }), 'soon', undefined],
    [integer({ min: 1, max: 8 }), '8', 8],
    [integer({ min: 1, max: 8 }), '0', undefined],
    [integer({ min: 1, max: 8 }), '2.5', undefined],
    [integer({ min: 0, max: 8 }), '', undefined],
    [url(['redis:']), 'redis://h:1/2', 'redis://h:1/2'],
    [url(['redis:']), 'h:1', undefined],
    [url(['unix:']), 'unix:///a.sock', 'unix:///a.sock'],
    [logLevel, 'debug', 'debug'],
    [logLevel, 'loud', undefined],
    [text(), 'a\nb', undefined],
    [text(), 'x'.repeat(5000), undefined],
  ] as const
  for (const [kind, written, wanted] of table)
    t.same(kind.parse(written), wanted, JSON.stringify(written).slice(0, 60))
})

t.test('readFlags', async (t) => {
  t.test('accepts the options of the table and --print-config', async (t) => {
    t.same(readFlags(gatewaySettings, ['--listen=[::1]:0', '--redis', 'unix:///r.sock', '--print-config']), {
      flags: { listen: '[::1]:0', redis: 'unix:///r.sock' },
      printConfig: true,
    })
  })
  t.test('refuses unknown options and extra arguments', async (t) => {
    t.match(
      faultsOf(() => readFlags(gatewaySettings, ['--slots', '3'])),
      [/--slots/],
    )
    t.match(
      faultsOf(() => readFlags(gatewaySettings, ['gateway'])),
      [/gateway/],
    )
  })
})

t.test(
  'describeConfig shows every setting as a line of an environment file, with passwords hidden',
  async (t) => {
    const shown = describeConfig(
      gatewaySettings,
      readConfig(gatewaySettings, { WHERRY_REDIS_URL: 'redis://me:hunter2@h:1' }),
    )
    t.match(shown, /^WHERRY_REDIS_URL=redis:\/\/me:\*\*\*@h:1 {2}# --redis: /m)
    t.match(shown, /^WHERRY_BODY_MAX=6Mi {2}#/m)
    t.match(shown, /^WHERRY_GATEWAY_LISTEN=127\.0\.0\.1:8080 {2}#/m)
    t.notMatch(shown, /hunter2/)
    t.equal(redactUrl('::'), '(not a URL)')
  },
)

t.test('a failed start prints one line', async (t) => {
  t.equal(
    describeStartFailure('gateway', new InvalidRequest([{ path: '--listen', problem: 'is taken' }])),
    'wherry gateway: cannot start: --listen: is taken (ERR_INVALID_REQUEST)\n',
  )
  t.equal(describeStartFailure('gateway', new Error('a\n  b')), 'wherry gateway: cannot start: a b\n')
})

t.test(
  'a share is a size or a percentage, and both watermarks of the image store are of one kind',
  async (t) => {
    t.same(share.parse('85%'), { percent: 85 })
    t.same(share.parse('20Gi'), { bytes: 20 * 1024 ** 3 })
    for (const wrong of ['0%', '101%', '8.5%', '0', '-1', '%', '20 GB', ''])
      t.equal(share.parse(wrong), undefined, wrong)
    t.equal(share.format({ percent: 85 }), '85%')
    t.equal(share.format({ bytes: 1024 ** 3 }), '1Gi')
    const store = createImageStore({ dir: t.testdirName })
    const log = createLog({ name: 'test', level: 'silent' })
    const puller = createPuller({ store, registry: createLocalFirst({ store }), nativeDir: '/nowhere' })
    const keeperOf = (high: string, low: string) =>
      createImageKeeper({ store, puller, high: share.parse(high)!, low: share.parse(low)!, log })
    for (const [high, low] of [
      ['80%', '85%'],
      ['80%', '80%'],
      ['1Gi', '2Gi'],
      ['85%', '1Gi'],
      ['1Gi', '80%'],
    ] as const) {
      t.match(
        faultsOf(() => keeperOf(high, low)),
        [/^WHERRY_IMAGES_LOW: must be below WHERRY_IMAGES_HIGH/],
        `${high} and ${low}`,
      )
    }
    t.doesNotThrow(() => keeperOf('2Gi', '1Gi'))
  },
)

// The reporter decides whether a run passes, so most of these runs fail.

import { text } from 'node:stream/consumers'
import t from 'tap'
import Reporter from '../reporter.ts'

interface Reported {
  readonly text: string
  readonly last: string
  readonly failed: boolean
}

async function report(tap: string, { ci = false } = {}): Promise<Reported> {
  let failed = false
  const reporter = new Reporter({
    ci,
    fail: () => {
      failed = true
    },
  })
  // Write odd pieces, because chunks can split lines anywhere.
  for (let i = 0; i < tap.length; i += 7) reporter.write(tap.slice(i, i + 7))
  reporter.end()
  const all = await text(reporter)
  return { text: all, last: all.trimEnd().split('\n').at(-1) ?? '', failed }
}

const GOOD = `TAP version 14
# Subtest: test/unit/a.test.ts
    # Subtest: outer
        # Subtest: inner one
            ok 1 - should be equal
            1..1
        ok 1 - inner one # time=3.57ms
        # Subtest: inner two
            ok 1 - should be equal
            ok 2 - not ok 3 - is only a name
            1..2
        ok 2 - inner two # time=3.57ms
        1..2
    ok 1 - outer # time=4ms
    ok 2 - a direct assertion
    ok 3 - elsewhere # SKIP needs root
    1..3
ok 1 - test/unit/a.test.ts # time=35.982ms
`

t.test('counts innermost tests and ends with a summary', async (t) => {
  const { text, last, failed } = await report(GOOD)
  t.equal(last, '3 passed, 0 failed, 1 skipped')
  t.match(
    text,
    /^✓ test\/unit\/a\.test\.ts: 3 passed, 0 failed, 1 skipped\n {2}- skipped: elsewhere: needs root\n/,
  )
  t.notOk(failed)
})

t.test('shows a failure with its file, its path and its diff', async (t) => {
  const { text, last, failed } = await report(`# Subtest: test/redis/b.test.ts
    # Subtest: outer
        # Subtest: inner
            not ok 1 - one is two
              ---
              compare: ===
              source: |
                let x = 1

                t.equal(x, 2)
              diff: |
                -2
                +1
              ...
            ok 2 - fine
            1..2
        not ok 1 - inner # time=1ms
          ---
          at: somewhere
          ...
        1..1
    not ok 1 - outer # time=1ms
    1..1
not ok 1 - test/redis/b.test.ts # time=1ms
  ---
  exitCode: 1
  ...
`)
  t.equal(last, '0 passed, 1 failed, 0 skipped')
  t.match(
    text,
    /✗ test\/redis\/b\.test\.ts > outer > inner > one is two\n {4}compare: ===\n {4}diff: \|\n {6}-2\n {6}\+1\n/,
  )
  t.notMatch(text, /let x|somewhere/)
  t.ok(failed)
})

t.test('lists several failures again after the tiers', async (t) => {
  const { text } = await report(`# Subtest: test/unit/a.test.ts
    not ok 1 - one
      ---
      diff: long
      ...
    not ok 2 - two
    1..2
not ok 1 - test/unit/a.test.ts # time=1ms
`)
  t.match(
    text,
    /tier unit: .*\nfailed: test\/unit\/a\.test\.ts > one\nfailed: test\/unit\/a\.test\.ts > two\n0 passed, 2 failed, 0 skipped\n$/,
  )
})

t.test('fails runs that tap accepts or ignores', async (t) => {
  t.test('a file that asserts nothing', async (t) => {
    const { text, last, failed } = await report(
      '# Subtest: test/unit/c.test.ts\n    1..0 # no tests found\nok 1 - test/unit/c.test.ts # SKIP no tests found\n',
    )
    t.equal(last, '0 passed, 1 failed, 0 skipped')
    t.match(text, 'test/unit/c.test.ts: asserts nothing')
    t.ok(failed)
  })
  t.test('a file that crashed', async (t) => {
    const { text, last, failed } = await report(
      '# Subtest: test/unit/c.test.ts\n    1..0 # no tests found\nnot ok 1 - test/unit/c.test.ts # time=3ms\n  ---\n  exitCode: 1\n  ...\n',
    )
    t.equal(last, '0 passed, 1 failed, 0 skipped')
    t.match(text, /crashed or was killed.*\n {4}exitCode: 1/)
    t.ok(failed)
  })
  t.test('a file that was killed at its timeout', async (t) => {
    const { text, last } = await report(
      '# Subtest: test/unit/c.test.ts\n    ok 1 - fine\n    1..1\nnot ok 1 - timeout!\n  ---\n  expired: test/unit/c.test.ts\n  ...\n',
    )
    t.equal(last, '1 passed, 1 failed, 0 skipped')
    t.match(text, 'test/unit/c.test.ts > timeout!')
  })
  t.test('a bail-out', async (t) => {
    t.match(
      await report(
        '# Subtest: test/unit/c.test.ts\n    # Subtest: bails\n        Bail out! stop all\nBail out! stop all\n',
      ),
      { last: '0 passed, 1 failed, 0 skipped', failed: true },
    )
  })
  t.test('no test at all', async (t) => {
    t.match(await report('TAP version 14\n1..0\n'), { last: '0 passed, 1 failed, 0 skipped', failed: true })
  })
})

t.test('a tier in which everything was skipped fails only under CI', async (t) => {
  const tap = `${GOOD}# Subtest: test/root/d.test.ts\n    1..0 # needs root\nok 2 - test/root/d.test.ts # SKIP needs root\n`
  const here = await report(tap)
  t.match(here, { last: '3 passed, 0 failed, 2 skipped', failed: false })
  t.match(here.text, /skipped: the whole file: needs root(?:.*\n)*tier root: .*\(none ran\)/)
  t.match(await report(tap, { ci: true }), { last: '3 passed, 1 failed, 2 skipped', failed: true })
})

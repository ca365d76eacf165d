// The terminal of `wherry-oci run` and `exec` in the foreground, between pipes that flood, stall or close.
// Also what commands leave behind that fail, exit early, or run concurrently.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { bundleFor, containerName, needsBundle, WHERRY_OCI } from '../helpers/bundle.ts'

t.test('a terminal between pipes', { skip: needsBundle }, async (t) => {
  const rig = bundleFor(t)
  let runs = 0

  /** `run` SCRIPT on a terminal. The test holds its pipes. */
  function start(script: string) {
    rig.config(script, (config) => {
      config.process.terminal = true
    })
    const child = spawn(
      WHERRY_OCI,
      [
        '--root',
        join(rig.directory, 'state'),
        'run',
        '--bundle',
        rig.directory,
        `${containerName(t)}-${runs++}`,
      ],
      { stdio: 'pipe' },
    )
    t.teardown(() => {
      child.kill('SIGKILL')
    })
    child.stdin.on('error', () => {}) // EPIPE: it exited before it had read everything
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    const ended = once(child, 'close').then(([code]) => ({ code: code as number, stdout, stderr }))
    return { child, ended }
  }

  await t.test(
    'delivers the last output to a slow reader, and an open stdin does not delay the exit',
    async (t) => {
      const { child, ended } = start('busybox seq 1 20000; exit 7')
      child.stdout.once('data', () => {
        child.stdout.pause()
        setTimeout(() => child.stdout.resume(), 600)
      })
      const { code, stdout } = await ended
      t.equal(code, 7)
      t.equal(stdout.split('\r\n').length - 1, 20_000)
      t.equal(child.stdin.writableEnded, false)
    },
  )

  await t.test('unread input is neither buffered without limit nor delays the exit', async (t) => {
    const { child, ended } = start('stty -echo; echo ready; read line; echo "got $line"')
    child.stdout.once('data', () => {
      const flood = Buffer.from('x\n'.repeat(32_768))
      const more = (): void => {
        while (child.exitCode === null && child.stdin.write(flood));
      }
      child.stdin.on('drain', more)
      more()
    })
    t.match(await ended, { code: 0, stdout: /got x/ })
  })

  await t.test('a closed stdout hangs up the terminal without a stack trace', async (t) => {
    const { child, ended } = start('trap "exit 5" HUP; while :; do echo line; sleep 0.05; done')
    child.stdout.once('data', () => {
      child.stdout.destroy()
    })
    t.match(await ended, { code: 5, stderr: '' })
    t.equal(rig.oci(['list', '--quiet']).stdout, '', 'and the container is deleted')
  })
})

t.test(
  'a detached container exists until it is deleted, however soon it exits',
  { skip: needsBundle },
  async (t) => {
    const rig = bundleFor(t)
    const id = containerName(t)
    rig.config('true', (config) => {
      config.hooks = { poststart: [{ path: '/bin/sleep', args: ['sleep', '0.3'] }] }
    })
    t.match(rig.oci(['run', '--detach', id], { quiet: true }), { code: 0 })
    let state = ''
    while (!state.includes('"stopped"')) {
      const shown = rig.oci(['state', id])
      if (shown.code !== 0) return t.fail(`it is not there any more: ${shown.stderr}`)
      state = shown.stdout
    }
    t.match(rig.oci(['delete', id]), { code: 0 })
  },
)

t.test('concurrent deletes all succeed, and the hook runs once', { skip: needsBundle }, async (t) => {
  const rig = bundleFor(t)
  const id = containerName(t)
  const log = join(rig.directory, 'log')
  for (let round = 0; round < 3; round++) {
    rig.config('sleep 1000', (config) => {
      config.hooks = { poststop: [{ path: '/bin/sh', args: ['sh', '-c', `echo ${round} >>${log}`] }] }
    })
    t.match(rig.oci(['run', '--detach', id], { quiet: true }), { code: 0 })
    const ends = await Promise.all(
      Array.from({ length: 5 }, async () => {
        const child = spawn(WHERRY_OCI, ['--root', join(rig.directory, 'state'), 'delete', '--force', id], {
          stdio: ['ignore', 'ignore', 'pipe'],
        })
        const said = child.stderr.toArray()
        return [(await once(child, 'close'))[0], (await said).join('')]
      }),
    )
    t.same(
      ends,
      ends.map(() => [0, '']),
    )
    t.match(rig.oci(['state', id]), { code: 1, stderr: /does not exist/ })
  }
  t.equal(readFileSync(log, 'utf8'), '0\n1\n2\n')
})

t.test('an exec that cannot write its pid file leaves no process', { skip: needsBundle }, async (t) => {
  const rig = bundleFor(t)
  const id = containerName(t)
  rig.config('sleep 60')
  t.match(rig.oci(['run', '--detach', id], { quiet: true }), { code: 0 })
  t.match(
    rig.oci(['exec', '--detach', '--pid-file', join(rig.directory, 'nowhere', 'pid'), id, 'sleep', '61'], {
      quiet: true,
    }),
    { code: 255 },
  )
  t.equal(rig.oci(['exec', id, 'grep', '-l', '61', '/proc/2/cmdline']).stdout, '')
  t.match(rig.oci(['delete', '--force', id]), { code: 0 })
})

// Failures of a complete Wherry: invalid commands, ports in use, missing privileges, two supervisors on one
// folder, parts that die, a killed supervisor. Each prints one clear line on stderr and the right exit code.

import { readFileSync, chmodSync, mkdirSync } from 'node:fs'
import { createServer } from 'node:net'
import { once } from 'node:events'
import t from 'tap'
import { findLeftovers } from '../../infra/demo/census.ts'
import { isAlive, waitUntilGone } from '../../services/platform/process-identity.ts'
import { readState } from '../../services/cli/up/state.ts'
import { cannotRun, FREE_PORTS, runWherry, shortFolder, startWherry } from '../helpers/wherry.ts'

const skip = cannotRun

t.test('a wrong command line exits with 2 and points to the help', async (t) => {
  const cases = [
    { args: ['frobnicate'], says: "wherry: usage: unknown command 'frobnicate'; see wherry --help" },
    {
      args: ['list', '--jso'],
      says: "wherry: list: unknown option '--jso' (Did you mean --json?); see wherry list --help",
    },
    { args: ['invoke'], says: "wherry: invoke: missing required argument 'name'; see wherry invoke --help" },
    { args: ['deploy', 'x'], says: 'wherry: deploy: --image is missing; see wherry deploy --help' },
    {
      args: ['deploy', 'x', '--image', 'y', '--volume', 'nope'],
      says: 'wherry: deploy: --volume "nope" must be NAME:TARGET or NAME:TARGET:ro; see wherry deploy --help',
    },
    {
      args: ['deploy', 'x', '--image', 'y', 'sh', '-c', 'date'],
      says: "wherry: deploy: unknown option '-c' (arguments of the function’s program go after --); see wherry deploy --help",
    },
    {
      args: ['deploy', 'x', '--image', 'y', '--env', 'NOT_SET'],
      says: 'wherry: deploy: --env "NOT_SET" must be NAME=VALUE: the environment has no variable NOT_SET; see wherry deploy --help',
    },
    { args: ['up', '--gateway', 'nowhere'], says: /^wherry: up: --gateway "nowhere" must be "host:port"/ },
    {
      args: ['login', 'ghcr.io'],
      says: 'wherry: login: stdin is not a terminal; use -u and --password-stdin; see wherry login --help',
    },
    { args: ['logout', 'a b'], says: /^wherry: logout: "a b" is not the name of a registry/ },
    {
      args: ['list', '--gateway', 'ftp://x'],
      says: /^wherry: list: "ftp:\/\/x" is not the address of a gateway/,
    },
  ]
  for (const { args, says } of cases)
    t.match(await runWherry(args), { code: 2, stdout: '', stderr: says }, args.join(' '))
})

t.test('the help of every command has an example', async (t) => {
  const { stdout } = await runWherry(['--help'])
  const commands = [...stdout.matchAll(/^ {2}([a-z]+)(?:\|[a-z]+)?(?: (?:\[|<)| {2,}\S)/gm)]
    .map((match) => match[1]!)
    .filter((name) => name !== 'help')
  t.same(commands, [
    'up',
    'down',
    'init',
    'build',
    'deploy',
    'invoke',
    'list',
    'describe',
    'remove',
    'logs',
    'ps',
    'image',
    'push',
    'login',
    'logout',
    'doctor',
    'version',
    'gateway',
    'worker',
    'oci',
  ])
  const { stdout: ociHelp } = await runWherry(['oci', '--help'])
  const ociCommands = [...ociHelp.split('Options:')[0]!.matchAll(/^ {2}([a-z]+) /gm)].map(
    (match) => match[1]!,
  )
  t.equal(ociCommands.length, 15)
  for (const command of ociCommands)
    t.match(
      await runWherry(['oci', command, '--help']),
      { code: 0, stdout: new RegExp(`Examples:\\n {2}wherry-oci ${command}`) },
      command,
    )
  for (const command of commands)
    t.match(
      await runWherry([command, '--help']),
      { code: 0, stdout: new RegExp(`Examples:\\n(?:.*\\n)*.*wherry[ -]${command}`) },
      command,
    )
})

t.test('a gateway that is not running', async (t) => {
  t.match(await runWherry(['list', '--gateway', '127.0.0.1:1']), {
    code: 1,
    stderr:
      /^wherry: list: the gateway http:\/\/127\.0\.0\.1:1 cannot be reached \(nothing is listening there\); start it with wherry up/,
  })
  t.match(await runWherry(['list', '--data', shortFolder(t)]), {
    code: 1,
    stderr: /^wherry: list: no wherry up is running on /,
  })
  t.match(await runWherry(['down', '--data', shortFolder(t)]), { code: 0, stderr: /^nothing is running on / })
})

t.test('a full stdout is a failure, a closed pipe is not', async (t) => {
  const full = ['sh', '-c', 'exec "$@" >/dev/full', 'sh']
  t.match(await runWherry(['version'], { through: full }), {
    code: 1,
    stderr: /^wherry: stdout cannot be written \(ENOSPC: [^\n]*\)\n$/,
  })
  t.match(await runWherry(['--help'], { through: ['sh', '-c', '{ "$@"; echo $? >&2; } | true', 'sh'] }), {
    stderr: '0\n',
  })
})

t.test('up rejects what cannot work before it starts anything', { skip }, async (t) => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const address = server.address()
  const taken = `127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
  const open = shortFolder(t)
  chmodSync(open, 0o777)
  const file = `${shortFolder(t)}/a`
  mkdirSync(file)
  const cases = [
    {
      args: ['--registry', taken],
      says: `wherry: registry: ${taken} is in use by another process; choose another with --registry HOST:PORT`,
    },
    {
      args: ['--gateway', taken],
      says: `wherry: gateway: ${taken} is in use by another process; choose another with --gateway HOST:PORT`,
    },
    {
      args: ['--redis', 'redis://127.0.0.1:1'],
      says: 'wherry: redis: Redis at redis://127.0.0.1:1: connect ECONNREFUSED',
    },
    {
      args: ['--registry', 'http://127.0.0.1:1'],
      says: 'wherry: registry: http://127.0.0.1:1 does not answer; start it, or omit --registry',
    },
    {
      args: ['--data', open],
      says: `wherry: up: other users may write to the data folder ${open}; choose another folder with --data`,
    },
    {
      args: ['--data', `/tmp/${'long/'.repeat(20)}`],
      says: 'is too long for a unix socket in it; choose a shorter --data',
    },
    { args: ['--data', '/proc/nope'], says: 'wherry: up: the data folder /proc/nope cannot be used' },
  ]
  for (const { args, says } of cases) {
    const { code, stderr } = await runWherry(['up', '--data', shortFolder(t), ...FREE_PORTS, ...args])
    t.equal(code, 1, args.join(' '))
    t.ok(
      stderr.split('\n').some((line) => line.startsWith('wherry: ') && line.includes(says)),
      `${stderr} should contain: ${says}`,
    )
  }
  const without = [
    'unshare',
    '-m',
    'sh',
    '-c',
    'mount --bind /dev/null "$(command -v docker-registry)" && exec "$@"',
    'sh',
  ]
  t.match(await runWherry(['up', '--data', shortFolder(t), ...FREE_PORTS], { through: without }), {
    code: 1,
    stderr: 'wherry: registry: docker-registry is not installed on this machine; run make setup\n',
  })
  const nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
  t.match(await runWherry(['up', '--data', '/tmp/nobody'], { through: nobody }), {
    code: 1,
    stderr: 'wherry: up: containers need root; run it as root (sudo wherry up)\n',
  })
  t.match(await runWherry(['down', '--data', shortFolder(t)], { through: nobody }), {
    code: 1,
    stderr: /^wherry: down: this user may not read the data folder .*; run it as the user who ran wherry up/,
  })
})

t.test('an invalid function is rejected field by field', { skip }, async (t) => {
  const { run } = await startWherry(t)
  const { code, stderr } = await run([
    'deploy',
    'no good',
    '--image',
    'A B',
    '--memory',
    '1Ki',
    '--cpu=-1',
    '--pids',
    'many',
    '--timeout',
    'soon',
  ])
  t.equal(code, 1)
  for (const field of ['service', 'image', 'limits.memory', 'limits.cpu', 'limits.pids', 'timeout'])
    t.match(stderr, new RegExp(`^  ${field}: .+`, 'm'))
  t.match(await run(['deploy', 'x', '--image', '127.0.0.1:1/x']), {
    code: 1,
    stderr: /registry 127\.0\.0\.1:1 cannot be reached/,
  })
  t.match(await run(['deploy', '-f', '-'], { input: '{"service": ' }), {
    code: 1,
    stderr: /^wherry: deploy: - cannot be read as JSON/,
  })
  t.match(await run(['deploy', '-f', '-'], { input: '{"service": "x", "image": "y", "imgae": 1}' }), {
    code: 1,
    stderr: /^ {2}imgae: is not a known field$/m,
  })
})

t.test('only one Wherry can run on a folder, detached or not', { skip }, async (t) => {
  const data = shortFolder(t)
  const started = await runWherry(['up', '--data', data, ...FREE_PORTS, '--detach', '--json'])
  t.teardown(() => runWherry(['down', '--data', data]))
  t.equal(started.code, 0, started.stderr)
  const { gateway } = JSON.parse(started.stdout) as { gateway: string }
  t.equal((await fetch(`${gateway}/healthz`)).status, 200, 'it keeps running')
  t.match(
    await runWherry(['list', '--data', data]),
    { code: 0, stdout: /^NAME/ },
    'its state file names the gateway',
  )
  for (const more of [[], ['--detach']]) {
    t.match(await runWherry(['up', '--data', data, ...FREE_PORTS, ...more]), {
      code: 1,
      stderr: /^wherry: up: \S+ is in use by another wherry up \(pid \d+\); stop it with wherry down --data /,
    })
  }
  const { supervisor, parts } = readState(data)!
  t.match(await runWherry(['down', '--data', data]), { code: 0, stderr: `stopped ${data}\n` })
  t.same([supervisor, ...parts].filter(isAlive), [], 'all processes have exited when down returns')
  t.match(readFileSync(`${data}/log/up.log`, 'utf8'), /^stopped$/m, 'its log is in the data folder')
})

t.test('a part that dies is restarted at the same address', { skip }, async (t) => {
  const { data, addresses, progress } = await startWherry(t)
  const restarted = async (part: string): Promise<void> => {
    while (!progress.some((line) => line.startsWith(`! ${part}: it was killed by SIGKILL and was restarted`)))
      await new Promise((resolve) => {
        setImmediate(resolve)
      })
  }
  for (const part of ['gateway', 'registry', 'redis'] as const) {
    process.kill(readState(data)!.parts.find((p) => p.name === part)!.pid, 'SIGKILL')
    await restarted(part)
  }
  t.equal((await fetch(`http://${addresses.registry}/v2/`)).status, 200)
  let health = 0
  while (health !== 200) health = (await fetch(`${addresses.gateway}/healthz`)).status
  t.pass('the gateway is ready again, with Redis')
})

t.test('a part that keeps dying stops everything', { skip }, async (t) => {
  const { data, child, progress } = await startWherry(t)
  const ended = once(child, 'exit')
  let killed = 0
  while (child.exitCode === null) {
    const part = readState(data)?.parts.find((p) => p.name === 'registry')
    if (part !== undefined && part.pid !== killed && isAlive(part)) {
      killed = part.pid
      process.kill(part.pid, 'SIGKILL')
    }
    await new Promise((resolve) => {
      setTimeout(resolve, 5)
    })
  }
  t.same(await ended, [1, null])
  t.match(progress.join('\n'), /^wherry: registry: it was killed by SIGKILL, for the 6th time in 30 s$/m)
})

t.test('a worker that is killed and not restarted leaves nothing behind', { skip }, async (t) => {
  const { data, subject, stop } = await startWherry(t)
  const worker = readState(data)!.parts.find((part) => part.name === 'worker')!
  const stopped = stop()
  process.kill(worker.pid, 'SIGKILL')
  await stopped
  t.same(await findLeftovers(subject), [])
})

t.test(
  'when the supervisor is killed, all parts exit, and the next one starts on the same folder',
  { skip },
  async (t) => {
    const data = shortFolder(t)
    const first = await startWherry(t, { data })
    const { parts } = readState(data)!
    first.child.kill('SIGKILL')
    t.same(await waitUntilGone(parts, 20_000), [], 'no part outlives it')
    const second = await startWherry(t, { data })
    t.equal((await fetch(`${second.addresses.gateway}/healthz`)).status, 200)
    t.equal(await second.stop(), 0)
    t.same(await findLeftovers(first.subject), [])
    t.same(await findLeftovers(second.subject), [])
  },
)

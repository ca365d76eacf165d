// wherry login: checks a user and a password with a registry, and stores them for gateway, worker and command
// line.

import { text } from 'node:stream/consumers'
import type { Command } from 'commander'
import type { Context } from '../context.ts'
import { Failure, usageFailure } from '../failure.ts'
import { ask } from '../prompt.ts'
import { addAccessOptions, parseRegistry, registryAccess, type AccessOptions } from '../registry-access.ts'

interface Flags extends AccessOptions {
  readonly username?: string
  readonly passwordStdin?: boolean
}

export function addLogin(program: Command, context: Context): void {
  addAccessOptions(program.command('login'))
    .summary('log in to a registry')
    .description(
      'Checks a user and a password with a registry and stores them in the data folder, for gateways, workers and this command.',
    )
    .argument('[registry]', 'registry, for example ghcr.io or registry.lan:5000', 'docker.io')
    .option('-u, --username <name>', 'user name')
    .option('--password-stdin', 'read the password, or a token, from stdin')
    .addHelpText(
      'after',
      `
Examples:
  wherry login ghcr.io -u me --password-stdin <token.txt
  wherry login registry.lan:5000                 # prompts for both

Docker’s logins (~/.docker/config.json or DOCKER_CONFIG, including credential helpers) are used, too.

Exit codes: 0 logged in, 1 rejected or unreachable, 2 wrong usage.`,
    )
    .action(async (written: string, flags: Flags) => {
      const registry = await parseRegistry('login', written)
      const { username, password } = await readSecrets(flags, context)
      await login(registry, { username, password }, flags, context)
    })
}

async function readSecrets(
  { username, passwordStdin }: Flags,
  context: Context,
): Promise<{ username: string; password: string }> {
  const isTerminal = context.stdin.isTTY === true
  if (passwordStdin !== true && !isTerminal)
    throw usageFailure('login', 'stdin is not a terminal; use -u and --password-stdin')
  if (passwordStdin === true && username === undefined)
    throw usageFailure('login', '--password-stdin needs -u')
  const user = username ?? (await ask(context, 'Username: '))
  const password =
    passwordStdin === true
      ? (await text(context.stdin)).replace(/\r?\n$/, '')
      : await ask(context, 'Password: ', { secret: true })
  if (!user || !password) throw new Failure('login', 'user and password must not be empty')
  // oxlint-disable-next-line no-control-regex
  if (user.includes(':') || /[\x00-\x1f\x7f]/.test(`${user}${password}`))
    throw new Failure(
      'login',
      'the user must not contain ":", and neither user nor password a control character',
    )
  return { username: user, password }
}

async function login(
  registry: string,
  { username, password }: { username: string; password: string },
  flags: Flags,
  context: Context,
): Promise<void> {
  const { openRegistryClient, loginFile } = await import('../../registry/open-registry.ts')
  const { writeLogin } = await import('../../registry/login-file.ts')
  const access = registryAccess(flags, context)
  let isTried = false
  const client = openRegistryClient(access, {
    find: async () => ({ credential: { kind: 'password', username, password }, problems: [] }),
  })
  try {
    if (client.isPlainHttp(registry))
      context.stderr.write(
        `wherry: login: ${registry} uses plain HTTP: anyone on the network path can read the password\n`,
      )
    isTried = await client.checkLogin(registry)
  } finally {
    await client.close()
  }
  const file = loginFile(access.dataDir)
  try {
    await writeLogin(file, registry, { username, password })
  } catch (err) {
    throw new Failure('login', `the login could not be saved (${(err as Error).message})`, {
      remedy: 'run it as the owner of the data folder, or choose another with --data',
      cause: err,
    })
  }
  if (isTried) context.stdout.write(`logged in to ${registry} as ${username}; saved in ${file}\n`)
  else
    context.stdout.write(
      `saved the login of ${username} in ${file} without checking it: ${registry} requires none\n`,
    )
}

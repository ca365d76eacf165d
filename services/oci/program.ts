// The command line of wherry-oci: global options, the choice of the command, and failures as exit codes.

import { resolve } from 'node:path'
import { SPEC_VERSION } from '../contract/bundle-spec.ts'
import { parseFlags, type Flag } from './command-line.ts'
import type { Command } from './command.ts'
import { COMMANDS } from './commands.ts'
import { createContext, type Context, type World } from './context.ts'
import { messageOf, OciError } from './failure.ts'
import { commandHelp, helpText } from './help.ts'

const DEFAULT_ROOT = '/run/wherry-oci'

const GLOBAL_FLAGS: readonly Flag[] = [
  { names: ['root'], value: 'DIR', about: `state folder of containers (${DEFAULT_ROOT})` },
  { names: ['log'], value: 'FILE', about: 'also write errors and warnings to FILE' },
  { names: ['log-format'], value: 'FORMAT', about: '"text" (default) or "json"' },
  { names: ['debug'], about: 'accepted' },
  {
    names: ['systemd-cgroup'],
    about: 'cgroupsPath is "slice:prefix:name" at systemd’s location; rejected where systemd does not run',
  },
  { names: ['rootless'], value: 'BOOL', about: 'accepted; only root can create containers' },
  { names: ['help', 'h'], about: 'show this help' },
  { names: ['version', 'v'], about: 'show the versions of program and spec' },
]
async function runCommand(command: Command, argv: readonly string[], context: Context): Promise<number> {
  const help: Flag = { names: ['help', 'h'], about: '' }
  const given = parseFlags(argv, [...command.flags, help])
  if (given.on('help')) {
    context.world.print(commandHelp(command))
    return 0
  }
  if (given.rest.length < command.count[0] || given.rest.length > command.count[1])
    throw new OciError(`wrong number of arguments; usage: wherry-oci ${command.name} ${command.args}`)
  return (await command.run({ context, given })) ?? 0
}

/** Run the command line ARGV, without node and script. Resolves with the exit code. */
export async function runProgram(argv: readonly string[], world: World, version: string): Promise<number> {
  let failed = 1
  let context = createContext(world, {
    root: DEFAULT_ROOT,
    log: undefined,
    logFormat: 'text',
    systemdCgroup: false,
  })
  try {
    const global = parseFlags(argv, GLOBAL_FLAGS)
    const format = global.text('log-format') ?? 'text'
    if (format !== 'text' && format !== 'json')
      throw new OciError(`--log-format ${format} is neither text nor json`)
    context = createContext(world, {
      root: resolve(world.cwd, global.text('root') ?? DEFAULT_ROOT),
      log: global.text('log'),
      logFormat: format,
      systemdCgroup: global.on('systemd-cgroup'),
    })
    if (global.on('version')) {
      world.print(`wherry-oci version ${version}\nspec: ${SPEC_VERSION}\n`)
      return 0
    }
    const [name, ...rest] = global.rest
    if (name === undefined || name === 'help' || global.on('help')) {
      world.print(helpText(GLOBAL_FLAGS))
      return 0
    }
    const command = COMMANDS.find((candidate) => candidate.name === name)
    if (!command) throw new OciError(`unknown command "${name}"; see wherry-oci --help`)
    failed = command.failed ?? failed
    return await runCommand(command, rest, context)
  } catch (err) {
    context.log.error(messageOf(err))
    return failed
  }
}

// The command line as a whole: all commands, and how they fail and show help.

import { Command, CommanderError } from 'commander'
import { addBuild } from './commands/build.ts'
import { addDeploy } from './commands/deploy.ts'
import { addDescribe } from './commands/describe.ts'
import { addDoctor } from './commands/doctor.ts'
import { addDown } from './commands/down.ts'
import { addImage } from './commands/image.ts'
import { addInit } from './commands/init.ts'
import { addInvoke } from './commands/invoke.ts'
import { addList } from './commands/list.ts'
import { addLogin } from './commands/login.ts'
import { addLogout } from './commands/logout.ts'
import { addLogs } from './commands/logs.ts'
import { addOci } from './commands/oci.ts'
import { addGateway, addWorker } from './commands/process.ts'
import { addPs } from './commands/ps.ts'
import { addPush } from './commands/push.ts'
import { addRemove } from './commands/remove.ts'
import { addUp } from './commands/up.ts'
import { addVersion } from './commands/version.ts'
import type { Context } from './context.ts'
import { describeFailure, EXIT_USAGE, failureOf, usageFailure } from './failure.ts'
import project from '../../package.json' with { type: 'json' }

const COMMANDS = [
  addUp,
  addDown,
  addInit,
  addBuild,
  addDeploy,
  addInvoke,
  addList,
  addDescribe,
  addRemove,
  addLogs,
  addPs,
  addImage,
  addPush,
  addLogin,
  addLogout,
  addDoctor,
  addVersion,
  addGateway,
  addWorker,
  addOci,
]

/** Name of the last argument of commands that pass words on to the function's program. */
const FOREIGN_WORDS = 'args'

/**
 * Runs the command line ARGV (without node and script).  Resolves with the exit code: 0, 1 failed, 2 usage.
 */
export async function runProgram(argv: readonly string[], context: Context): Promise<number> {
  let exitCode = 0
  const program = createProgram({
    ...context,
    setExitCode: (code) => {
      exitCode = code
    },
  })
  try {
    await program.parseAsync(argv, { from: 'user' })
    return exitCode
  } catch (err) {
    // Help was requested, or shown because there is no command.
    if (err instanceof CommanderError) return err.exitCode === 0 ? 0 : EXIT_USAGE
    const failure = failureOf(titleOfArgs(program), err)
    context.stderr.write(describeFailure(failure))
    return failure.exitCode
  }
}

function createProgram(context: Context): Command {
  const program = new Command('wherry')
    .description(
      'Runs container functions: calls arrive over HTTP or BullMQ and run in short-lived, isolated containers.',
    )
    .version(`wherry ${project.version}`, '-V, --version', 'show the version; wherry version shows more')
    .enablePositionalOptions()
    .configureHelp({ showGlobalOptions: false })
    .configureOutput({
      writeOut: (text) => context.stdout.write(text),
      writeErr: (text) => context.stderr.write(text),
      outputError: () => {
        /* runProgram reports it */
      },
    })
    .addHelpText(
      'after',
      `
Examples:
  wherry up                                              # start everything on this machine
  wherry deploy upper --image busybox -- tr a-z A-Z      # a function from any image
  echo hello | wherry invoke upper                       # HELLO

Exit codes: 0 done, 1 failed, 2 wrong usage.  See wherry COMMAND --help.`,
    )
  for (const add of COMMANDS) add(program, context)
  for (const command of withSubcommands(program)) {
    command.exitOverride((err) => {
      const isHelp = err.exitCode === 0 || err.code === 'commander.help'
      const isForeign =
        err.code === 'commander.unknownOption' && command.registeredArguments.at(-1)?.name() === FOREIGN_WORDS
      throw isHelp
        ? err
        : usageFailure(
            titleOf(command),
            `${err.message.replace(/^error: /, '').replace(/\.$/, '')}${isForeign ? ' (arguments of the function’s program go after --)' : ''}`,
          )
    })
  }
  return program
}

function withSubcommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withSubcommands)]
}

/** "image pull"; "" for the program itself. */
function titleOf(command: Command): string {
  return command.parent === null ? '' : `${titleOf(command.parent)} ${command.name()}`.trim()
}

/** The command in the arguments, as far as it exists: "image pull". */
function titleOfArgs(program: Command): string {
  let command: Command | undefined = program
  for (const word of program.args) {
    const next: Command | undefined = command.commands.find(
      (c) => c.name() === word || c.aliases().includes(word),
    )
    if (next === undefined) break
    command = next
  }
  return titleOf(command) || (program.args[0] ?? 'wherry')
}

// The commands of wherry-oci with runc's names and options, so that engines written for runc can use it.

import { existsSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Flag } from './command-line.ts'
import { json, type Command, type CommandContext } from './command.ts'
import { featureReport, specTemplate } from './config/template.ts'
import { createFromBundle, runContainer } from './create.ts'
import { parseInterval, printEvents } from './events.ts'
import { OciError } from './failure.ts'
import { listContainers, printProcesses } from './list.ts'
import { CREATE_FLAGS, createOptions, DETACH, exec, EXEC_FLAGS } from './process-flags.ts'
import { parseSignal } from './signals.ts'
import { UPDATE_FLAGS, updateCommand } from './update.ts'

/** As runc's: it differs from the exit codes of most programs that ran. */
export const EXIT_EXEC_FAILED = 255

const ALL: Flag = { names: ['all', 'a'], about: 'every process of the container' }
const FORMAT: Flag = { names: ['format', 'f'], value: 'FORMAT', about: '"table" (default) or "json"' }

function writeSpec({ context, given }: CommandContext): void {
  if (given.on('rootless')) throw new OciError('rootless containers are not supported')
  const file = join(resolve(context.world.cwd, given.text('bundle') ?? '.'), 'config.json')
  if (existsSync(file)) throw new OciError(`${file} already exists`)
  writeFileSync(file, json(specTemplate()))
}

export const COMMANDS: readonly Command[] = [
  {
    name: 'create',
    args: 'ID',
    about: 'create a container from a bundle, ready to start',
    examples: ['--bundle ./bundle box'],
    flags: CREATE_FLAGS,
    count: [1, 1],
    async run(command) {
      await createFromBundle(command.context, createOptions(command, true))
    },
  },
  {
    name: 'start',
    args: 'ID',
    about: 'run the program of a created container',
    examples: ['box'],
    flags: [],
    count: [1, 1],
    run: ({ context, given }) => context.containers.start(given.rest[0]!),
  },
  {
    name: 'run',
    args: 'ID',
    about: 'create and start; waits for the container and exits with its exit code',
    examples: ['box', '-d --bundle ./bundle --pid-file box.pid box'],
    flags: [
      ...CREATE_FLAGS,
      DETACH,
      { names: ['keep'], about: 'do not delete it when it exits' },
      { names: ['no-subreaper'], about: 'accepted' },
    ],
    count: [1, 1],
    run: (command) =>
      runContainer(
        command.context,
        createOptions(command, command.given.on('detach')),
        command.given.on('keep'),
      ),
  },
  {
    name: 'state',
    args: 'ID',
    about: 'print its state as JSON',
    examples: ['box | jq -r .status'],
    flags: [],
    count: [1, 1],
    run: ({ context, given }) => context.world.print(json(context.containers.state(given.rest[0]!))),
  },
  {
    name: 'kill',
    args: 'ID [SIGNAL]',
    about: 'send a signal (TERM)',
    examples: ['box', 'box KILL'],
    flags: [ALL],
    count: [1, 2],
    run: ({ context, given }) =>
      context.containers.kill(given.rest[0]!, parseSignal(given.rest[1] ?? 'TERM'), given.on('all')),
  },
  {
    name: 'delete',
    args: 'ID',
    about: 'remove a stopped container',
    examples: ['box', '--force box'],
    flags: [{ names: ['force', 'f'], about: 'kill it first; succeed if it does not exist' }],
    count: [1, 1],
    run: ({ context, given }) => context.containers.remove(given.rest[0]!, given.on('force')),
  },
  {
    name: 'list',
    args: '',
    about: 'list containers',
    examples: ['', "--format json | jq -r '.[].id'"],
    flags: [FORMAT, { names: ['quiet', 'q'], about: 'ids only' }],
    count: [0, 0],
    run: listContainers,
  },
  {
    name: 'ps',
    args: 'ID [PS OPTIONS]',
    about: 'list its processes',
    examples: ['box', 'box -o pid,args'],
    flags: [FORMAT],
    count: [1, 64],
    run: printProcesses,
  },
  {
    name: 'exec',
    args: 'ID COMMAND [ARG...]',
    about: 'run another process in it',
    examples: ['box ls /', '--user 1000 --env A=b --cwd /tmp box sh -c id'],
    flags: EXEC_FLAGS,
    count: [1, 8192],
    failed: EXIT_EXEC_FAILED,
    run: exec,
  },
  {
    name: 'pause',
    args: 'ID',
    about: 'freeze it',
    examples: ['box'],
    flags: [],
    count: [1, 1],
    run: ({ context, given }) => context.containers.pause(given.rest[0]!),
  },
  {
    name: 'resume',
    args: 'ID',
    about: 'thaw it',
    examples: ['box'],
    flags: [],
    count: [1, 1],
    run: ({ context, given }) => context.containers.resume(given.rest[0]!),
  },
  {
    name: 'update',
    args: 'ID',
    about: 'change the limits of a running container',
    examples: ['--memory 128m --memory-swap 256m --pids-limit 50 box', '--resources - box <limits.json'],
    flags: UPDATE_FLAGS,
    count: [1, 1],
    run: ({ context, given }) => updateCommand(context, given.rest[0]!, given),
  },
  {
    name: 'events',
    args: 'ID',
    about: 'print its usage and out-of-memory kills as lines of JSON',
    examples: ['--stats box', '--interval 1s box'],
    flags: [
      { names: ['interval'], value: 'TIME', about: 'interval between statistics (5s)' },
      { names: ['stats'], about: 'print statistics once and exit' },
    ],
    count: [1, 1],
    run: ({ context, given }) =>
      printEvents(context, given.rest[0]!, {
        once: given.on('stats'),
        intervalMs: parseInterval(given.text('interval') ?? '5s'),
      }),
  },
  {
    name: 'features',
    args: '',
    about: 'print the features of this runtime as JSON',
    examples: ['| jq .linux.namespaces'],
    flags: [],
    count: [0, 0],
    run: ({ context }) => context.world.print(json(featureReport())),
  },
  {
    name: 'spec',
    args: '',
    about: 'write a template of config.json',
    examples: ['', '--bundle ./bundle'],
    flags: [
      { names: ['bundle', 'b'], value: 'DIR', about: 'folder for it (default: current)' },
      { names: ['rootless'], about: 'refused' },
    ],
    count: [0, 0],
    run: writeSpec,
  },
]

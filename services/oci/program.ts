// The command line of wherry-oci: a table of commands with their options, in runc's words, so that engines
// that know runc can use it.  Knows what is printed; what is done is in the other files.

import { existsSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describeFlags, parseFlags, wholeNumber, type Flag, type Given } from './command-line.ts'
import { SPEC_VERSION } from './config/config.ts'
import { createContext, type Context, type World } from './context.ts'
import { createContainer, runContainer, startCreated, type CreateRequest } from './create.ts'
import { parseInterval, printEvents } from './events.ts'
import { execInContainer } from './exec.ts'
import { messageOf, OciError } from './failure.ts'
import { deleteContainer, freezeContainer, killContainer, parseSignal, processesOf } from './manage.ts'
import { reportOf } from './store.ts'
import { featureReport, specTemplate } from './config/template.ts'
import { UPDATE_FLAGS, updateContainer } from './update.ts'

const DEFAULT_ROOT = '/run/wherry-oci'
/** As runc's: a program that ended with 1 looks different from one that never ran. */
const EXIT_EXEC_FAILED = 255

const GLOBAL_FLAGS: readonly Flag[] = [
  { names: ['root'], value: 'DIR', about: `where containers are kept (${DEFAULT_ROOT})` },
  { names: ['log'], value: 'FILE', about: 'also write errors and warnings there' },
  { names: ['log-format'], value: 'FORMAT', about: '"text" (default) or "json"' },
  { names: ['debug'], about: 'accepted' },
  {
    names: ['systemd-cgroup'],
    about:
      'take cgroupsPath as "slice:prefix:name", in the place where systemd has it; refused where systemd does not run',
  },
  { names: ['rootless'], value: 'BOOL', about: 'accepted; containers are made by root' },
  { names: ['help', 'h'], about: 'this text' },
  { names: ['version', 'v'], about: 'versions of program and spec' },
]
const PID_FILE: Flag = { names: ['pid-file'], value: 'FILE', about: 'write the process number there' }
const CONSOLE_SOCKET: Flag = {
  names: ['console-socket'],
  value: 'PATH',
  about: 'unix socket that gets the terminal',
}
const PRESERVE_FDS: Flag = {
  names: ['preserve-fds'],
  value: 'N',
  about: 'hand on N descriptors from 3 upwards, behind those of $LISTEN_FDS',
}
const DETACH: Flag = { names: ['detach', 'd'], about: 'return as soon as it runs' }
const CREATE_FLAGS: readonly Flag[] = [
  { names: ['bundle', 'b'], value: 'DIR', about: 'folder with config.json (the current one)' },
  PID_FILE,
  CONSOLE_SOCKET,
  PRESERVE_FDS,
  { names: ['no-new-keyring'], about: 'keep the caller’s session keyring' },
  { names: ['no-pivot'], about: 'refused: a root that was not pivoted can be left' },
]
const ALL: Flag = { names: ['all', 'a'], about: 'every process of the container' }
const FORMAT: Flag = { names: ['format', 'f'], value: 'FORMAT', about: '"table" (default) or "json"' }

interface CommandContext {
  readonly context: Context
  readonly given: Given
}

interface Command {
  readonly name: string
  readonly args: string
  readonly about: string
  /** What may stand behind its name. */
  readonly examples: readonly string[]
  readonly flags: readonly Flag[]
  /** How many arguments it takes. */
  readonly count: readonly [min: number, max: number]
  /** Exit code when it could not be done; 1 for most. */
  readonly failed?: number
  readonly run: (command: CommandContext) => number | void | Promise<number | void>
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

/** How many sockets this process was started with, if they are meant for it (sd_listen_fds(3)). */
function listenFdsOf({ LISTEN_FDS = '', LISTEN_PID }: World['environment']): number {
  return LISTEN_PID === String(process.pid) && /^\d{1,4}$/.test(LISTEN_FDS) ? Number(LISTEN_FDS) : 0
}

function createRequest({ context, given }: CommandContext, detached: boolean): CreateRequest {
  if (given.on('no-pivot'))
    throw new OciError(
      '--no-pivot is refused: a root that was not pivoted can be left; put the bundle on a file system other than the initial ramfs',
    )
  const listenFds = listenFdsOf(context.world.environment)
  return {
    id: given.rest[0]!,
    bundle: given.text('bundle') ?? '.',
    pidFile: given.text('pid-file'),
    consoleSocket: given.text('console-socket'),
    preserveFds: listenFds + wholeNumber('preserve-fds', given.text('preserve-fds')),
    listenFds,
    newKeyring: !given.on('no-new-keyring'),
    detached,
  }
}

function formatOf(given: Given): 'table' | 'json' {
  const format = given.text('format') ?? 'table'
  if (format !== 'table' && format !== 'json')
    throw new OciError(`--format ${format} is neither table nor json`)
  return format
}

function listContainers({ context, given }: CommandContext): void {
  const reports = context.store
    .list((id) => context.log.warn(`the record of container "${id}" is damaged; delete --force removes it`))
    .map((record) => ({ ...reportOf(context.store, record), owner: 'root' }))
  if (given.on('quiet')) return context.world.print(reports.map(({ id }) => `${id}\n`).join(''))
  if (formatOf(given) === 'json') return context.world.print(`${JSON.stringify(reports)}\n`)
  const rows = [
    ['ID', 'PID', 'STATUS', 'BUNDLE', 'CREATED', 'OWNER'],
    ...reports.map((r) => [r.id, String(r.pid), r.status, r.bundle, r.created, r.owner]),
  ]
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  context.world.print(
    rows
      .map(
        (row) =>
          `${row
            .map((cell, column) => cell.padEnd(widths[column]! + 3))
            .join('')
            .trimEnd()}\n`,
      )
      .join(''),
  )
}

function printProcesses({ context, given }: CommandContext): void {
  const pids = processesOf(context, given.rest[0]!)
  if (formatOf(given) === 'json') return context.world.print(`${JSON.stringify(pids)}\n`)
  const { execFileSync } = process.getBuiltinModule('node:child_process')
  const lines = execFileSync('ps', given.rest.length > 1 ? given.rest.slice(1) : ['-ef'], {
    encoding: 'utf8',
  }).split('\n')
  const column = lines[0]!.trim().split(/\s+/).indexOf('PID')
  if (column < 0) throw new OciError('these options of ps show no column PID')
  context.world.print(
    lines
      .filter((line, i) => i === 0 || pids.includes(Number(line.trim().split(/\s+/)[column])))
      .map((line) => `${line}\n`)
      .join(''),
  )
}

function writeSpec({ context, given }: CommandContext): void {
  if (given.on('rootless')) throw new OciError('containers are made by root; there is no rootless spec')
  const file = join(resolve(context.world.cwd, given.text('bundle') ?? '.'), 'config.json')
  if (existsSync(file)) throw new OciError(`${file} is there already`)
  writeFileSync(file, json(specTemplate()))
}

const EXEC_FLAGS: readonly Flag[] = [
  { names: ['process', 'p'], value: 'FILE', about: 'a process of the spec, as JSON' },
  { names: ['env', 'e'], value: 'NAME=VALUE', about: 'one more variable', many: true },
  { names: ['cwd'], value: 'DIR', about: 'working directory' },
  { names: ['user', 'u'], value: 'UID[:GID]', about: 'user and group, as numbers' },
  { names: ['additional-gids', 'g'], value: 'GID', about: 'one more group', many: true },
  { names: ['cap', 'c'], value: 'CAP', about: 'one more capability', many: true },
  { names: ['tty', 't'], about: 'a terminal' },
  { names: ['no-new-privs'], about: 'setuid programs give nothing' },
  { names: ['apparmor'], value: 'PROFILE', about: 'accepted when empty' },
  { names: ['process-label'], value: 'LABEL', about: 'accepted when empty' },
  { names: ['ignore-paused'], about: 'accepted' },
  { names: ['cgroup'], value: 'PATH', about: 'accepted when empty' },
  DETACH,
  PID_FILE,
  CONSOLE_SOCKET,
  PRESERVE_FDS,
]

function exec({ context, given }: CommandContext): Promise<number> {
  for (const name of ['apparmor', 'process-label', 'cgroup'])
    if (given.text(name))
      throw new OciError(`--${name} is not supported; a process gets what the container has`)
  return execInContainer(context, {
    id: given.rest[0]!,
    processFile: given.text('process'),
    args: given.rest.slice(1),
    env: given.texts('env'),
    cwd: given.text('cwd'),
    user: given.text('user'),
    additionalGids: given.texts('additional-gids'),
    capabilities: given.texts('cap'),
    terminal: given.on('tty'),
    noNewPrivileges: given.on('no-new-privs'),
    pidFile: given.text('pid-file'),
    consoleSocket: given.text('console-socket'),
    preserveFds: wholeNumber('preserve-fds', given.text('preserve-fds')),
    detached: given.on('detach'),
  })
}

const COMMANDS: readonly Command[] = [
  {
    name: 'create',
    args: 'ID',
    about: 'make a container of a bundle, ready to start',
    examples: ['--bundle ./bundle box'],
    flags: CREATE_FLAGS,
    count: [1, 1],
    async run(command) {
      await createContainer(command.context, createRequest(command, true))
    },
  },
  {
    name: 'start',
    args: 'ID',
    about: 'let a created container run its program',
    examples: ['box'],
    flags: [],
    count: [1, 1],
    run: ({ context, given }) => startCreated(context, given.rest[0]!),
  },
  {
    name: 'run',
    args: 'ID',
    about: 'create and start; ends with the container, and with its exit code',
    examples: ['box', '-d --bundle ./bundle --pid-file box.pid box'],
    flags: [
      ...CREATE_FLAGS,
      DETACH,
      { names: ['keep'], about: 'do not delete it when it has ended' },
      { names: ['no-subreaper'], about: 'accepted' },
    ],
    count: [1, 1],
    run: (command) =>
      runContainer(command.context, createRequest(command, command.given.on('detach')), async (id) => {
        if (!command.given.on('keep')) await deleteContainer(command.context, id, true)
      }),
  },
  {
    name: 'state',
    args: 'ID',
    about: 'print what it is, as JSON',
    examples: ['box | jq -r .status'],
    flags: [],
    count: [1, 1],
    run: ({ context, given }) =>
      context.world.print(json(reportOf(context.store, context.store.load(given.rest[0]!)))),
  },
  {
    name: 'kill',
    args: 'ID [SIGNAL]',
    about: 'send a signal (TERM)',
    examples: ['box', 'box KILL'],
    flags: [ALL],
    count: [1, 2],
    run: ({ context, given }) =>
      killContainer(context, given.rest[0]!, parseSignal(given.rest[1] ?? 'TERM'), given.on('all')),
  },
  {
    name: 'delete',
    args: 'ID',
    about: 'remove a stopped container',
    examples: ['box', '--force box'],
    flags: [{ names: ['force', 'f'], about: 'kill it first; no failure if there is none' }],
    count: [1, 1],
    run: ({ context, given }) => deleteContainer(context, given.rest[0]!, given.on('force')),
  },
  {
    name: 'list',
    args: '',
    about: 'all containers',
    examples: ['', "--format json | jq -r '.[].id'"],
    flags: [FORMAT, { names: ['quiet', 'q'], about: 'names only' }],
    count: [0, 0],
    run: listContainers,
  },
  {
    name: 'ps',
    args: 'ID [PS OPTIONS]',
    about: 'its processes',
    examples: ['box', 'box -o pid,args'],
    flags: [FORMAT],
    count: [1, 64],
    run: printProcesses,
  },
  {
    name: 'exec',
    args: 'ID COMMAND [ARG...]',
    about: 'run one more process in it',
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
    run: ({ context, given }) => freezeContainer(context, given.rest[0]!, true),
  },
  {
    name: 'resume',
    args: 'ID',
    about: 'thaw it',
    examples: ['box'],
    flags: [],
    count: [1, 1],
    run: ({ context, given }) => freezeContainer(context, given.rest[0]!, false),
  },
  {
    name: 'update',
    args: 'ID',
    about: 'change limits of a running container',
    examples: ['--memory 128m --memory-swap 256m --pids-limit 50 box', '--resources - box <limits.json'],
    flags: UPDATE_FLAGS,
    count: [1, 1],
    run: ({ context, given }) => updateContainer(context, given.rest[0]!, given),
  },
  {
    name: 'events',
    args: 'ID',
    about: 'print what it uses, and when memory ran out, as lines of JSON',
    examples: ['--stats box', '--interval 1s box'],
    flags: [
      { names: ['interval'], value: 'TIME', about: 'how often (5s)' },
      { names: ['stats'], about: 'once' },
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
    about: 'what this runtime can do, as JSON',
    examples: ['| jq .linux.namespaces'],
    flags: [],
    count: [0, 0],
    run: ({ context }) => context.world.print(json(featureReport())),
  },
  {
    name: 'spec',
    args: '',
    about: 'write a config.json to begin with',
    examples: ['', '--bundle ./bundle'],
    flags: [
      { names: ['bundle', 'b'], value: 'DIR', about: 'folder for it (the current one)' },
      { names: ['rootless'], about: 'refused' },
    ],
    count: [0, 0],
    run: writeSpec,
  },
]

function helpText(): string {
  const width = Math.max(...COMMANDS.map(({ name, args }) => name.length + args.length)) + 1
  return `wherry-oci: containers from OCI bundles, on the command line of the OCI runtimes

Usage: wherry-oci [OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]

Commands:
${COMMANDS.map(({ name, args, about }) => `  ${`${name} ${args}`.padEnd(width)}  ${about}\n`).join('')}
Options:
${describeFlags(GLOBAL_FLAGS)}
Examples:
  wherry-oci spec && wherry-oci run box          # a shell in ./rootfs
  podman --runtime "$(command -v wherry-oci)" run --rm docker.io/library/busybox echo hello

Exit codes: that of the container for run and exec, else 0 done, 1 failed
(exec: ${EXIT_EXEC_FAILED}).  wherry-oci COMMAND --help shows more of each.
`
}

const commandHelp = ({ name, args, about, examples, flags }: Command): string =>
  `wherry-oci ${name}: ${about}\n\nUsage: ${`wherry-oci [OPTIONS] ${name} [OPTIONS] ${args}`.trimEnd()}\n${flags.length > 0 ? `\nOptions:\n${describeFlags(flags)}` : ''}
Examples:\n${examples.map((example) => `${`  wherry-oci ${name} ${example}`.trimEnd()}\n`).join('')}`

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

/** Runs the command line ARGV (without node and script).  Resolves with the exit code. */
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
      world.print(helpText())
      return 0
    }
    const command = COMMANDS.find((candidate) => candidate.name === name)
    if (!command) throw new OciError(`there is no command "${name}"; see wherry-oci --help`)
    failed = command.failed ?? failed
    return await runCommand(command, rest, context)
  } catch (err) {
    context.log.error(messageOf(err))
    return failed
  }
}

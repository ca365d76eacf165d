// Options of `create`, `run` and `exec`, the commands that start a process.

import { wholeNumber, type Flag } from './command-line.ts'
import type { CommandContext } from './command.ts'
import type { World } from './context.ts'
import type { CreateOptions } from './create.ts'
import { execCommand } from './exec.ts'
import { OciError } from './failure.ts'

const PID_FILE: Flag = { names: ['pid-file'], value: 'FILE', about: 'write the PID to FILE' }
const CONSOLE_SOCKET: Flag = {
  names: ['console-socket'],
  value: 'PATH',
  about: 'unix socket that receives the terminal',
}
const PRESERVE_FDS: Flag = {
  names: ['preserve-fds'],
  value: 'N',
  about: 'pass on N descriptors from 3 upwards, after those of $LISTEN_FDS',
}
export const DETACH: Flag = { names: ['detach', 'd'], about: 'return as soon as it runs' }
export const CREATE_FLAGS: readonly Flag[] = [
  { names: ['bundle', 'b'], value: 'DIR', about: 'folder with config.json (default: current)' },
  PID_FILE,
  CONSOLE_SOCKET,
  PRESERVE_FDS,
  { names: ['no-new-keyring'], about: 'keep the caller’s session keyring' },
  { names: ['no-pivot'], about: 'rejected: a process could leave a root that was not pivoted' },
]

/** The number of sockets that were passed to this process (sd_listen_fds(3)). */
function listenFdsOf({ LISTEN_FDS = '', LISTEN_PID }: World['environment']): number {
  return LISTEN_PID === String(process.pid) && /^\d{1,4}$/.test(LISTEN_FDS) ? Number(LISTEN_FDS) : 0
}

export function createOptions({ context, given }: CommandContext, detached: boolean): CreateOptions {
  if (given.on('no-pivot'))
    throw new OciError(
      '--no-pivot is rejected: a process could leave a root that was not pivoted; put the bundle on a file system other than the initial ramfs',
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

export const EXEC_FLAGS: readonly Flag[] = [
  { names: ['process', 'p'], value: 'FILE', about: 'the process as in config.json' },
  { names: ['env', 'e'], value: 'NAME=VALUE', about: 'an additional variable', many: true },
  { names: ['cwd'], value: 'DIR', about: 'working directory' },
  { names: ['user', 'u'], value: 'UID[:GID]', about: 'user and group, as numbers' },
  { names: ['additional-gids', 'g'], value: 'GID', about: 'an additional group', many: true },
  { names: ['cap', 'c'], value: 'CAP', about: 'an additional capability', many: true },
  { names: ['tty', 't'], about: 'allocate a terminal' },
  { names: ['no-new-privs'], about: 'setuid programs grant no privileges' },
  { names: ['apparmor'], value: 'PROFILE', about: 'accepted when empty' },
  { names: ['process-label'], value: 'LABEL', about: 'accepted when empty' },
  { names: ['ignore-paused'], about: 'accepted' },
  { names: ['cgroup'], value: 'PATH', about: 'accepted when empty' },
  DETACH,
  PID_FILE,
  CONSOLE_SOCKET,
  PRESERVE_FDS,
]

export function exec({ context, given }: CommandContext): Promise<number> {
  for (const name of ['apparmor', 'process-label', 'cgroup'])
    if (given.text(name))
      throw new OciError(`--${name} is not supported: a process gets the one of its container`)
  return execCommand(context, given.rest[0]!, {
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

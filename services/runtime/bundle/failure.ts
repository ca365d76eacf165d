// Failed starts of bundles as errors. Engines match on the words of some messages to choose exit code 126 or
// 127.

import { InvalidRequest, StartError, SyscallError } from '../../contract/errors.ts'

/** `describeOp` of the operation that chooses the profile. */
const APPARMOR_OP = 'write self/attr/apparmor/exec'

/** ERR, replaced when the command ARGS or the profile is its cause. */
export function explain(err: unknown, args: readonly string[]): unknown {
  if (!(err instanceof SyscallError)) return err
  if (err.op === APPARMOR_OP && err.errno === 'ENOENT')
    return new InvalidRequest([
      { path: 'process.apparmorProfile', problem: 'is not loaded in this kernel (apparmor_parser(8))' },
    ])
  if (!/^(?:exec|checkProgram)\b/.test(err.op)) return err
  const command = JSON.stringify(args[0])
  const isPath = args[0]!.includes('/')
  const notFound = (): StartError =>
    new StartError(
      `exec: ${command}: ${isPath ? 'no such file or directory' : 'executable file not found in $PATH'}`,
      'ERR_COMMAND_NOT_FOUND',
      err,
    )
  // A search of PATH skips files that are not executable.
  if (!isPath && err.errno === 'EACCES' && err.op.startsWith('checkProgram')) return notFound()
  switch (err.errno) {
    case 'ENOENT':
    case 'ENOTDIR':
      return notFound()
    case 'EACCES':
    case 'EPERM':
      return new StartError(`exec: ${command}: permission denied`, 'ERR_COMMAND_NOT_EXECUTABLE', err)
    case 'ENOEXEC':
      return new StartError(`exec: ${command}: exec format error`, 'ERR_COMMAND_NOT_EXECUTABLE', err)
    default:
      return err
  }
}

export const killed = (cause?: unknown): StartError =>
  new StartError(
    'wherry-init was killed before the container was ready; its memory limit may be too low to start',
    'ERR_START',
    cause,
  )

// Failed starts that the image or the function caused, as messages for the caller of the function.

import type { RuntimeSpec } from '../contract/runtime-spec.ts'
import type { Op } from './ops.ts'

/** Characters of a command that a message quotes. */
const QUOTED_MAX = 256

export interface StartFailure {
  readonly code: 'ERR_COMMAND_NOT_FOUND' | 'ERR_COMMAND_NOT_EXECUTABLE' | 'ERR_INVALID_ROOTFS'
  readonly message: string
}

const notExecutable = (message: string): StartFailure => ({ code: 'ERR_COMMAND_NOT_EXECUTABLE', message })
const invalidRoot = (message: string): StartFailure => ({ code: 'ERR_INVALID_ROOTFS', message })

function execFailure(name: string | undefined, errno: string): StartFailure | undefined {
  switch (errno) {
    case 'ENOENT':
    case 'ENOTDIR':
    case 'ENAMETOOLONG':
      return {
        code: 'ERR_COMMAND_NOT_FOUND',
        message: `command "${name}" is not in the image (or its interpreter is not)`,
      }
    case 'ELOOP':
      return notExecutable(
        `command "${name}" leads through a link of /proc to a program outside the image, or through more links or scripts than the kernel follows`,
      )
    case 'EACCES':
      return notExecutable(`command "${name}" is in the image but is not executable (permission denied)`)
    case 'ENOEXEC':
      return notExecutable(
        `command "${name}" is not a program for this machine (no "#!" line, or another architecture)`,
      )
    case 'E2BIG':
      return notExecutable(`command "${name}": arguments and environment exceed the kernel's limit`)
    default:
      return undefined
  }
}

function mountFailure(target: string, errno: string): StartFailure | undefined {
  const link = `the image has a symbolic link at ${target}`
  switch (errno) {
    case 'ELOOP':
      return invalidRoot(`${link}, where a file system must be mounted`)
    case 'EXDEV':
      return invalidRoot(`${link} that leads to /proc, where nothing may be mounted`)
    case 'ENOENT':
      return invalidRoot(`${link} whose target does not exist`)
    case 'EROFS':
      return invalidRoot(`${link} whose target is on a read-only file system and cannot be created`)
    case 'ENOTDIR':
    case 'EINVAL':
      return invalidRoot(`the image has something at ${target} that is not a directory`)
    default:
      return undefined
  }
}

/** Why OP failed with ERRNO when image or function are the cause; undefined when the host is. */
export function explainFailure(
  spec: RuntimeSpec,
  op: Op | undefined,
  errno: string,
): StartFailure | undefined {
  switch (op?.kind) {
    case 'exec':
      return execFailure(spec.process.args[0]?.slice(0, QUOTED_MAX), errno)
    case 'chdir':
      return invalidRoot(`working directory "${spec.process.cwd}" cannot be entered (${errno})`)
    case 'attach':
    case 'bind':
      return mountFailure(op.target, errno)
    default:
      return undefined
  }
}

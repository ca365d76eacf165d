// Pid files, which engines read to find a container's process.

import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

/** Write PID to PATH, if given. Engines read the file as soon as it exists, so it is complete at once. */
export function writePidFile(path: string | undefined, pid: number): void {
  if (path === undefined) return
  const temporary = join(resolve(path, '..'), `.${pid}.pid`)
  rmSync(temporary, { force: true })
  writeFileSync(temporary, String(pid))
  renameSync(temporary, path)
}

// Secrets of a build as files for a container. They are in memory (tmpfs), never on a disk, in a layer or in
// a cache key. The next build removes those of a killed one.

import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { Unsupported } from '../contract/errors.ts'
import { startTimeOf } from '../platform/process-identity.ts'

/** As in BuildKit. */
export const SECRET_BYTES_MAX = 500 * 1024
/** Prefix of the folders of secrets. */
export const SECRETS_FOLDER = 'wherry-secrets-'
const PLACES = ['/run', '/dev/shm']
/** statfs(2) */
const TMPFS_MAGIC = 0x01021994
const NAME = /^wherry-secrets-(\d{1,10})-(\d{1,20})$/

export type Secrets = ReturnType<typeof createSecrets>

function findMemory(): string {
  const place = PLACES.find((path) => existsSync(path) && statfsSync(path).type === TMPFS_MAGIC)
  if (place === undefined)
    throw new Unsupported(
      `secrets are kept only in memory, but neither ${PLACES.join(' nor ')} is a tmpfs; mount one, or build without --secret`,
    )
  return place
}

/** Removes the secrets of killed builds. */
export function sweepSecrets(): void {
  for (const place of PLACES.filter((path) => existsSync(path))) {
    for (const name of readdirSync(place)) {
      const owner = NAME.exec(name)
      if (owner && startTimeOf(Number(owner[1])) !== owner[2])
        rmSync(join(place, name), { recursive: true, force: true })
    }
  }
}

/** Secrets with the given VALUES by id. */
export function createSecrets(values: ReadonlyMap<string, Uint8Array>) {
  let folder: string | undefined
  let count = 0

  function open(): string {
    if (folder !== undefined) return folder
    const place = findMemory()
    folder = join(place, `${SECRETS_FOLDER}${process.pid}-${startTimeOf(process.pid)}`)
    mkdirSync(folder, { mode: 0o700 })
    return folder
  }

  return {
    value: (id: string): Uint8Array | undefined => values.get(id),
    /** The secret ID as a file with this owner and mode, or undefined if there is no such secret. */
    file(id: string, { mode, uid, gid }: { mode: number; uid: number; gid: number }): string | undefined {
      const value = values.get(id)
      if (value === undefined) return undefined
      const path = join(open(), String(count++))
      writeFileSync(path, value, { mode: 0o600 })
      chownSync(path, uid, gid)
      chmodSync(path, mode)
      return path
    },
    /** Removes all files. */
    close(): void {
      if (folder !== undefined) rmSync(folder, { recursive: true, force: true })
      folder = undefined
    },
  }
}

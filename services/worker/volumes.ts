// Named volumes: a directory per name below the data folder, which outlives every container and is shared by
// all functions that name it. Files on disk have the ids that they have inside containers (mounts are
// id-mapped), so the next container can read a volume in whatever range of ids it runs. Only root may enter
// the parent folder, so that no other user of the host can run a setuid file in a volume.

import { chmodSync, chownSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { VolumeMount } from '../contract/function-spec.ts'
import type { User } from '../contract/runtime-spec.ts'

export interface Volumes {
  /** The directories of VOLUMES, created if missing; a new one belongs to USER. */
  paths(volumes: readonly VolumeMount[], user: User): ReadonlyMap<string, string>
}

export function createVolumes({ directory }: { directory: string }): Volumes {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  chmodSync(directory, 0o700)
  const known = new Set<string>()

  function ensure(name: string, user: User): string {
    const path = join(directory, name)
    if (known.has(path)) return path
    try {
      mkdirSync(path, { mode: 0o755 })
      chownSync(path, user.uid, user.gid)
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EEXIST') throw err
    }
    known.add(path)
    return path
  }

  return {
    paths: (volumes, user) => new Map(volumes.map((volume) => [volume.name, ensure(volume.name, user)])),
  }
}

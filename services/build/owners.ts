// Resolves users and groups by the current /etc/passwd and /etc/group of a stage (runtime/user.ts has the
// rules).

import type { User } from '../contract/runtime-spec.ts'
import { readImageFile } from '../images/image-file.ts'
import { resolveUser } from '../runtime/user.ts'

/** WRITTEN ("", "app", "1000:1000" …) in the stage of LAYERS.  Throws StartError. */
export async function userOf(layers: readonly string[], written: string): Promise<User> {
  const [passwd, group] =
    written === ''
      ? []
      : await Promise.all([readImageFile({ layers }, '/etc/passwd'), readImageFile({ layers }, '/etc/group')])
  return resolveUser(written, { passwd, group })
}

/**
 * --chown: as above, but a single number is also the group (Dockerfile reference, "COPY --chown --chmod").
 * Throws StartError.
 */
export async function ownerOf(
  layers: readonly string[],
  written: string,
): Promise<{ uid: number; gid: number }> {
  const { uid, gid } = await userOf(layers, /^\d+$/.test(written) ? `${written}:${written}` : written)
  return { uid, gid }
}

/** The home folder of USER in /etc/passwd; by default "/root" for root and "/" for others. */
export async function homeOf(layers: readonly string[], { uid }: User): Promise<string> {
  const passwd = await readImageFile({ layers }, '/etc/passwd')
  const row = passwd
    ?.split('\n')
    .map((line) => line.split(':'))
    .find((fields) => fields[2] === String(uid))
  return row?.[5]?.startsWith('/') ? row[5] : uid === 0 ? '/root' : '/'
}

// Users and groups of a stage, by the files that its layers have at that moment (user.ts has the rules).
// Knows where a home is written; refuses to know who needs an owner and why.

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
 * --chown: as above, but a number alone is the group's, too (Dockerfile reference, "COPY --chown --chmod").
 * Throws StartError.
 */
export async function ownerOf(
  layers: readonly string[],
  written: string,
): Promise<{ uid: number; gid: number }> {
  const { uid, gid } = await userOf(layers, /^\d+$/.test(written) ? `${written}:${written}` : written)
  return { uid, gid }
}

/** The home folder of USER, by /etc/passwd; "/root" of root and "/" of others where it does not say. */
export async function homeOf(layers: readonly string[], { uid }: User): Promise<string> {
  const passwd = await readImageFile({ layers }, '/etc/passwd')
  const row = passwd
    ?.split('\n')
    .map((line) => line.split(':'))
    .find((fields) => fields[2] === String(uid))
  return row?.[5]?.startsWith('/') ? row[5] : uid === 0 ? '/root' : '/'
}

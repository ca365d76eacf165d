// Whom a function runs as: the USER of its image or of its spec, resolved once per image and kept,
// because the answer is in files of the image that never change.

import type { Image } from '../contract/image.ts'
import type { User } from '../contract/runtime-spec.ts'
import { readImageFile } from '../images/image-file.ts'
import { resolveUser } from '../runtime/user.ts'

const KEPT_MAX = 1024

export type ResolveUser = (image: Image, written: string) => Promise<User>

/** Resolves "user" or "user:group" against an image.  Throws StartError when the image does not know it. */
export function createUserResolver(): ResolveUser {
  const kept = new Map<string, User>()
  return async (image, written) => {
    const key = `${image.digest} ${written}`
    let user = kept.get(key)
    if (user === undefined) {
      const [passwd, group] =
        written === ''
          ? []
          : await Promise.all([readImageFile(image, '/etc/passwd'), readImageFile(image, '/etc/group')])
      user = resolveUser(written, { passwd, group })
      if (kept.size >= KEPT_MAX) kept.delete(kept.keys().next().value!)
      kept.set(key, user)
    }
    return user
  }
}

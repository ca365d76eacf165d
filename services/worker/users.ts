// The user that a function runs as: USER of its image, or `user` of its spec. The result is cached per image,
// because the files of an image never change.

import { LRUCache } from 'lru-cache'
import type { Image } from '../contract/image.ts'
import type { User } from '../contract/runtime-spec.ts'
import { readImageFile } from '../images/image-file.ts'
import { resolveUser } from '../runtime/user.ts'

const CACHED_MAX = 1024

export type ResolveUser = (image: Image, written: string) => Promise<User>

/** Resolves "user" or "user:group" against an image.  Throws StartError when the image does not know it. */
export function createUserResolver(): ResolveUser {
  const cached = new LRUCache<string, User>({ max: CACHED_MAX })
  return async (image, written) => {
    const key = `${image.digest} ${written}`
    let user = cached.get(key)
    if (user === undefined) {
      const [passwd, group] =
        written === ''
          ? []
          : await Promise.all([readImageFile(image, '/etc/passwd'), readImageFile(image, '/etc/group')])
      user = resolveUser(written, { passwd, group })
      cached.set(key, user)
    }
    return user
  }
}

// The file of logins that `wherry login` writes, in the format of Docker's config.json, mode 0600.  It is
// replaced by rename, so a reader sees the old file or the new one.

import { randomBytes } from 'node:crypto'
import { chmod, mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { isPlainObject } from '../contract/plain-object.ts'
import { DOCKER_HUB_KEY, isKeyOf, readConfigFile } from './credentials.ts'

async function replace(file: string, config: object): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o711 })
  const draft = `${file}.${randomBytes(8).toString('hex')}`
  try {
    const handle = await open(draft, 'wx', 0o600)
    try {
      await handle.writeFile(`${JSON.stringify(config, undefined, 2)}\n`)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await chmod(draft, 0o600)
    await rename(draft, file)
  } catch (error) {
    await rm(draft, { force: true })
    throw error
  }
}

/** The logins of FILE without those of REGISTRY, in all spellings. */
async function without(
  file: string,
  registry: string,
): Promise<{ config: Record<string, unknown>; others: Record<string, unknown>; removed: number }> {
  const config = (await readConfigFile(file)) ?? {}
  const { auths } = config
  const entries = Object.entries(isPlainObject(auths) ? auths : {})
  const others = entries.filter(([key]) => !isKeyOf(key, registry))
  return { config, others: Object.fromEntries(others), removed: entries.length - others.length }
}

/** Store a login for REGISTRY in FILE.  Throws when the file cannot be read or written. */
export async function writeLogin(
  file: string,
  registry: string,
  { username, password }: { username: string; password: string },
): Promise<void> {
  const { config, others } = await without(file, registry)
  const auth = Buffer.from(`${username}:${password}`).toString('base64')
  await replace(file, {
    ...config,
    auths: { ...others, [registry === 'docker.io' ? DOCKER_HUB_KEY : registry]: { auth } },
  })
}

/** Remove the login for REGISTRY.  Return: whether there was one. */
export async function removeLogin(file: string, registry: string): Promise<boolean> {
  const { config, others, removed } = await without(file, registry)
  if (removed > 0) await replace(file, { ...config, auths: others })
  return removed > 0
}

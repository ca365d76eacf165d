// How a command accesses registries: with the same registries file, logins and proxies as gateway and worker.

import type { Command } from 'commander'
import type { RegistryAccess } from '../registry/open-registry.ts'
import { REGISTRIES_FILE_DEFAULT } from '../platform/config.ts'
import { DATA_DEFAULT } from './connect.ts'
import type { Context } from './context.ts'
import { usageFailure } from './failure.ts'

export interface AccessOptions {
  readonly data?: string
  readonly registries?: string
}

/** Adds --data and --registries to COMMAND. */
export function addAccessOptions(command: Command): Command {
  return command
    .option('--data <dir>', `data folder with the logins (or WHERRY_DATA; default ${DATA_DEFAULT})`)
    .option(
      '--registries <file>',
      `registries file (or WHERRY_REGISTRIES; default ${REGISTRIES_FILE_DEFAULT})`,
    )
}

export function registryAccess({ data, registries }: AccessOptions, { env }: Context): RegistryAccess {
  return {
    env,
    dataDir: data ?? (env.WHERRY_DATA || DATA_DEFAULT),
    registriesFile: registries ?? (env.WHERRY_REGISTRIES || REGISTRIES_FILE_DEFAULT),
  }
}

/** The registry that WRITTEN ("https://Host:5000/", "index.docker.io") names, for COMMAND. */
export async function parseRegistry(command: string, written: string): Promise<string> {
  const { canonicalRegistry, isRegistryName } = await import('../registry/reference.ts')
  const name = written.replace(/^https?:\/\//, '').replace(/\/(?:v[12]\/?)?$/, '')
  if (!isRegistryName(name))
    throw usageFailure(
      command,
      `"${written.slice(0, 100)}" is not the name of a registry (host or host:port)`,
    )
  return canonicalRegistry(name)
}

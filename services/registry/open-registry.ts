// A registry client with the settings of this machine: the file of registries, logins, proxies, CAs, and the
// usual environment variables (DOCKER_CONFIG, HTTPS_PROXY, SSL_CERT_FILE …). Gateway, worker and command line
// all open their clients here, so an image that one of them can pull, all of them can.

import { join } from 'node:path'
import { defined } from '../contract/defined.ts'
import { REGISTRIES_FILE_DEFAULT } from '../platform/config.ts'
import { createCredentials, type Credentials } from './credentials.ts'
import { readProxyRule } from './proxy.ts'
import { createRegistryClient, type RegistryClient } from './registry.ts'
import { readPem, readRegistries } from './registry-config.ts'

export interface RegistryAccess {
  /** The process's environment. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** Where `wherry login` writes. */
  readonly dataDir: string
  /** The file of registries (WHERRY_REGISTRIES). */
  readonly registriesFile: string
  /**
   * Bounds each wait for a registry, and so how long a pending connection can delay the end of the process.
   */
  readonly requestTimeoutMs?: number
}

/** The file of logins in DATADIR, in the format of Docker's config.json. */
export function loginFile(dataDir: string): string {
  return join(dataDir, 'credentials.json')
}

/** Wherry's file of logins, then Docker's. */
function loginFiles({ env, dataDir }: RegistryAccess): readonly string[] {
  const docker = env['DOCKER_CONFIG'] || (env['HOME'] ? join(env['HOME'], '.docker') : undefined)
  return [loginFile(dataDir), ...(docker === undefined ? [] : [join(docker, 'config.json')])]
}

/**
 * A client for any number of registries; CREDENTIALS replace those in files.  Throws InvalidRequest when the
 * configuration is invalid.
 */
export function openRegistryClient(access: RegistryAccess, credentials?: Credentials): RegistryClient {
  const { env, registriesFile, requestTimeoutMs } = access
  const rootsFile = env['SSL_CERT_FILE'] || undefined
  return createRegistryClient({
    registries: readRegistries(registriesFile, { optional: registriesFile === REGISTRIES_FILE_DEFAULT }),
    credentials: credentials ?? createCredentials({ files: loginFiles(access), env }),
    proxyOf: readProxyRule(env),
    ...defined({ requestTimeoutMs }),
    ...(rootsFile !== undefined && { roots: readPem('SSL_CERT_FILE', rootsFile) }),
  })
}

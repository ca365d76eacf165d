// A registry client as this machine's operator wants it: the file of registries, who is logged in, proxies,
// CAs. Knows the names of the environment that others have given these things (DOCKER_CONFIG, HTTPS_PROXY,
// SSL_CERT_FILE …). Gateway, worker and command line open their clients here, so that what one of them can
// pull all of them can.

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
   * Bounds each wait for a registry, and so how long a connection that is being made can hold up the end of
   * the process.
   */
  readonly requestTimeoutMs?: number
}

/** The file of logins in DATADIR, in the format of Docker's config.json. */
export function loginFile(dataDir: string): string {
  return join(dataDir, 'credentials.json')
}

/** Our own file of logins, then Docker's. */
function loginFiles({ env, dataDir }: RegistryAccess): readonly string[] {
  const docker = env['DOCKER_CONFIG'] || (env['HOME'] ? join(env['HOME'], '.docker') : undefined)
  return [loginFile(dataDir), ...(docker === undefined ? [] : [join(docker, 'config.json')])]
}

/**
 * A client for any number of registries; CREDENTIALS in place of those in files.
 * Throws InvalidRequest when what was configured cannot be understood.
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

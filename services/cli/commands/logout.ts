// wherry logout: removes the login of a registry.

import type { Command } from 'commander'
import type { Context } from '../context.ts'
import { Failure } from '../failure.ts'
import { addAccessOptions, parseRegistry, registryAccess, type AccessOptions } from '../registry-access.ts'

export function addLogout(program: Command, context: Context): void {
  addAccessOptions(program.command('logout'))
    .summary('remove the login of a registry')
    .description(
      'Removes the login that wherry login stored for a registry.  Docker’s logins are not changed.',
    )
    .argument('[registry]', 'registry, for example ghcr.io or registry.lan:5000', 'docker.io')
    .addHelpText(
      'after',
      `
Examples:
  wherry logout ghcr.io

Exit codes: 0 removed, 1 there was no login, 2 wrong usage.`,
    )
    .action(async (written: string, flags: AccessOptions) => {
      const registry = await parseRegistry('logout', written)
      const { loginFile } = await import('../../registry/open-registry.ts')
      const { removeLogin } = await import('../../registry/login-file.ts')
      const file = loginFile(registryAccess(flags, context).dataDir)
      if (!(await removeLogin(file, registry)))
        throw new Failure('logout', `there is no login for ${registry} in ${file}`)
      context.stdout.write(`logged out of ${registry}\n`)
    })
}

// wherry version: the installed versions, for bug reports.

import { release } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import type { Context } from '../context.ts'
import project from '../../../package.json' with { type: 'json' }

export const NATIVE_DEFAULT = fileURLToPath(new URL('../../../build/native', import.meta.url))

export function addVersion(program: Command, { env, stdout }: Context): void {
  program
    .command('version')
    .summary('show versions of Wherry, Node, the native library and the kernel')
    .description('Shows the versions of Wherry, Node, the native library’s interface and the kernel.')
    .option('--json', 'print them as JSON')
    .addHelpText(
      'after',
      `
Examples:
  wherry version
  wherry version --json | jq -r .wherry

Exit codes: 0.`,
    )
    .action(async ({ json }: { json?: boolean }) => {
      const versions = {
        wherry: project.version,
        node: process.versions.node,
        nativeAbi: await nativeAbi(env.WHERRY_NATIVE || NATIVE_DEFAULT),
        kernel: release(),
      }
      if (json) stdout.write(`${JSON.stringify(versions)}\n`)
      else
        stdout.write(
          `wherry ${versions.wherry}\nnode ${versions.node}\nnative library: ${versions.nativeAbi === null ? 'not built (make native)' : `interface ${versions.nativeAbi}`}\nkernel ${versions.kernel}\n`,
        )
    })
}

/** null if it is not built or does not match; wherry doctor has the reason. */
async function nativeAbi(nativeDir: string): Promise<number | null> {
  const { openNative } = await import('../../runtime/native.ts')
  try {
    return openNative(nativeDir).abi
  } catch {
    return null
  }
}

// wherry push: options and help. The action is in ../image/push.ts, which is loaded when it runs.

import type { Command } from 'commander'
import type { Context } from '../context.ts'
import type { PushFlags } from '../image/push.ts'
import { addAccessOptions } from '../registry-access.ts'

export function addPush(program: Command, context: Context): void {
  addAccessOptions(program.command('push'))
    .summary('push an image to a registry')
    .description(
      'Pushes an image from this machine to a registry, except for parts that the registry has.  Log in with wherry login first.',
    )
    .argument(
      '<images...>',
      'image, and destination unless its name includes one; with --index, the images to combine',
    )
    .option(
      '--index <reference>',
      'combine images from this machine or from registries into one multi-platform image',
    )
    .option('-q, --quiet', 'show no progress')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
Examples:
  wherry push registry.lan:5000/team/app:v1
  wherry push app ghcr.io/me/app:v1
  wherry push --index ghcr.io/me/app:v1 app-amd64 ghcr.io/me/app:arm64

Exit codes: 0 pushed, 1 rejected, unreachable or incomplete, 2 wrong usage.`,
    )
    .action(async (images: string[], flags: PushFlags) => {
      const { pushIndexOf, pushOne } = await import('../image/push.ts')
      await (flags.index === undefined
        ? pushOne(images, flags, context)
        : pushIndexOf(images, flags.index, flags, context))
    })
}

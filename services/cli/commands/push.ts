// wherry push: images of this machine into registries. Knows options and help; what it does is in
// ../image/push.ts.

import type { Command } from 'commander'
import type { Context } from '../context.ts'
import type { PushFlags } from '../image/push.ts'
import { addAccessOptions } from '../registry-access.ts'

export function addPush(program: Command, context: Context): void {
  addAccessOptions(program.command('push'))
    .summary('send an image to a registry')
    .description(
      'Sends an image of this machine to a registry, but only the parts that are not there.  Log in with wherry login first.',
    )
    .argument(
      '<images...>',
      'the image, and where to, unless its own name says that; with --index the images to join',
    )
    .option(
      '--index <reference>',
      'make one name for several platforms out of images of this machine or of registries',
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

Exit codes: 0 pushed, 1 refused, not reachable or not whole, 2 wrong usage.`,
    )
    .action(async (images: string[], flags: PushFlags) => {
      const { pushIndexOf, pushOne } = await import('../image/push.ts')
      await (flags.index === undefined
        ? pushOne(images, flags, context)
        : pushIndexOf(images, flags.index, flags, context))
    })
}

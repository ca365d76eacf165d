// wherry image: the images of this machine.  Knows options and help of each subcommand; what they do is in
// ../image/, loaded when it is needed.

import type { Command } from 'commander'
import { DATA_DEFAULT } from '../connect.ts'
import type { Context } from '../context.ts'

export function addImage(program: Command, context: Context): void {
  const image = program
    .command('image')
    .summary('list, pull, remove, save and load images on this machine')
    .description(
      'Works on the images of this machine: those that were pulled or loaded here, and those that functions have.  Needs root.',
    )
    .addHelpText(
      'after',
      `
Examples:
  wherry image pull busybox
  wherry image ls
  wherry image save -o busybox.tar busybox
  wherry image prune --dry-run

A REF is a name ("busybox", "localhost:5000/a:v1"), a digest, or the first 6 or more digits of one.
Exit codes: 0 done, 1 failed, 2 wrong usage.`,
    )

  const add = (usage: string, summary: string, description: string, examples: readonly string[]): Command =>
    image
      .command(usage)
      .summary(summary)
      .description(description)
      .option('--data <dir>', `data folder (or WHERRY_DATA; default ${DATA_DEFAULT})`)
      .option('--json', 'print the result as JSON')
      .addHelpText(
        'after',
        `\nExamples:\n${examples.map((example) => `  wherry image ${example}\n`).join('')}\nExit codes: 0 done, 1 failed, 2 wrong usage.`,
      )

  add(
    'ls',
    'show all images',
    'Shows all images, the one used last first: size unpacked on the disk, and why each is kept.',
    ['ls', "ls --json | jq -r '.[].digest'"],
  )
    .alias('list')
    .action(async (flags) => {
      await (await import('../image/list.ts')).listImages(flags, context)
    })

  add(
    'pull <refs...>',
    'get images from their registries',
    'Gets images from their registries, checks and unpacks them, and keeps them packed, too.',
    ['pull busybox', 'pull -q localhost:5000/a:v1 localhost:5000/b@sha256:…'],
  )
    .option('-q, --quiet', 'show no progress')
    .action(async (refs: string[], flags) => {
      await (await import('../image/pull.ts')).pullImages(refs, flags, context)
    })

  add(
    'inspect <refs...>',
    'show images in full',
    'Shows images in full: digests, configuration, labels, layers; and the SBOMs, provenance and signatures that their registries have.',
    ['inspect busybox', "inspect --json busybox | jq '.[0].layers'"],
  )
    .option('--offline', 'do not ask the registry')
    .action(async (refs: string[], flags) => {
      await (await import('../image/list.ts')).inspectImages(refs, flags, context)
    })

  add(
    'history <ref>',
    'show how an image was made',
    'Shows the steps that made an image, the last one first, with the size of each layer unpacked on the disk.',
    ['history busybox'],
  ).action(async (ref: string, flags) => {
    await (await import('../image/list.ts')).showHistory(ref, flags, context)
  })

  add('tag <ref> <name>', 'give an image another name', 'Gives an image another name on this machine.', [
    'tag busybox localhost:5000/busybox:v1',
    'tag 4501d580a56d upper',
  ]).action(async (ref: string, name: string, flags) => {
    await (await import('../image/remove.ts')).tagImage(ref, name, flags, context)
  })

  add(
    'save <refs...>',
    'write images into an archive',
    'Writes images into one archive that docker load, podman load, skopeo and wherry image load take.',
    ['save -o busybox.tar busybox', 'save -o - busybox | ssh other docker load'],
  )
    .requiredOption('-o, --output <file>', 'the archive to write; - is stdout')
    .option(
      '--format <docker|oci>',
      'docker: docker save archive and OCI layout at once; oci: only the layout',
      'docker',
    )
    .action(async (refs: string[], flags) => {
      await (await import('../image/archive.ts')).saveImages(refs, flags, context)
    })

  add(
    'load',
    'get images out of an archive',
    'Gets the images out of an archive of docker save, podman save, skopeo or wherry image save, or out of an OCI layout folder.',
    ['load -i busybox.tar', 'load -i layout/', 'load < busybox.tar.gz'],
  )
    .option('-i, --input <file>', 'the archive or the folder; - is stdin', '-')
    .action(async (flags) => {
      await (await import('../image/archive.ts')).loadImages(flags, context)
    })

  add(
    'rm <refs...>',
    'remove names and images',
    'Removes names; an image goes with its last name, unless a function or a process needs it.',
    ['rm busybox', 'rm 4501d580a56d'],
  )
    .alias('remove')
    .action(async (refs: string[], flags) => {
      await (await import('../image/remove.ts')).removeImages(refs, flags, context)
    })

  add(
    'prune',
    'remove images that nobody needs',
    'Removes images that have no name and that no function and no process needs, and what failed pulls left.',
    ['prune --dry-run', 'prune --all --older 24h'],
  )
    .option('--all', 'images with a name too')
    .option('--older <duration>', 'only images that were not used for so long ("24h")')
    .option('--dry-run', 'only say what would be removed')
    .action(async (flags) => {
      await (await import('../image/remove.ts')).pruneImages(flags, context)
    })
}

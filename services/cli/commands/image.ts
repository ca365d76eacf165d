// wherry image: options and help of its subcommands. Their actions are in ../image/, which is loaded when one
// runs.

import type { Command } from 'commander'
import { DATA_DEFAULT } from '../connect.ts'
import type { Context } from '../context.ts'

interface Usage {
  /** Name and arguments: "tag <ref> <name>". */
  readonly usage: string
  readonly summary: string
  readonly description: string
  readonly examples: readonly string[]
}
type Add = (usage: Usage) => Command

const SUBCOMMANDS = [addList, addPull, addInspect, addHistory, addTag, addSave, addLoad, addRemove, addPrune]

export function addImage(program: Command, context: Context): void {
  const image = program
    .command('image')
    .summary('list, pull, remove, save and load images on this machine')
    .description(
      'Manages the images on this machine: those that were pulled, loaded or built here, and those of functions.  Needs root.',
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
  const add: Add = ({ usage, summary, description, examples }) =>
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
  for (const addSubcommand of SUBCOMMANDS) addSubcommand(add, context)
}

function addList(add: Add, context: Context): void {
  add({
    usage: 'ls',
    summary: 'list images',
    description:
      'Lists all images, most recently used first, with their unpacked size on disk and what uses them.',
    examples: ['ls', "ls --json | jq -r '.[].digest'"],
  })
    .alias('list')
    .action(async (flags) => {
      await (await import('../image/list.ts')).listImages(flags, context)
    })
}

function addPull(add: Add, context: Context): void {
  add({
    usage: 'pull <refs...>',
    summary: 'pull images from their registries',
    description:
      'Pulls images from their registries, verifies and unpacks them, and keeps the packed layers too.',
    examples: ['pull busybox', 'pull -q localhost:5000/a:v1 localhost:5000/b@sha256:…'],
  })
    .option('-q, --quiet', 'show no progress')
    .action(async (refs: string[], flags) => {
      await (await import('../image/pull.ts')).pullImages(refs, flags, context)
    })
}

function addInspect(add: Add, context: Context): void {
  add({
    usage: 'inspect <refs...>',
    summary: 'show the details of images',
    description:
      'Shows the digests, configuration, labels and layers of images, and the SBOMs, provenance and signatures in their registries.',
    examples: ['inspect busybox', "inspect --json busybox | jq '.[0].layers'"],
  })
    .option('--offline', 'do not contact registries')
    .action(async (refs: string[], flags) => {
      await (await import('../image/list.ts')).inspectImages(refs, flags, context)
    })
}

function addHistory(add: Add, context: Context): void {
  add({
    usage: 'history <ref>',
    summary: 'show how an image was built',
    description:
      'Shows the steps that built an image, latest first, with the unpacked size of each layer on disk.',
    examples: ['history busybox'],
  }).action(async (ref: string, flags) => {
    await (await import('../image/list.ts')).showHistory(ref, flags, context)
  })
}

function addTag(add: Add, context: Context): void {
  add({
    usage: 'tag <ref> <name>',
    summary: 'give an image another name',
    description: 'Gives an image another name on this machine.',
    examples: ['tag busybox localhost:5000/busybox:v1', 'tag 4501d580a56d upper'],
  }).action(async (ref: string, name: string, flags) => {
    await (await import('../image/remove.ts')).tagImage(ref, name, flags, context)
  })
}

function addSave(add: Add, context: Context): void {
  add({
    usage: 'save <refs...>',
    summary: 'save images to an archive',
    description:
      'Saves images to one archive, which docker load, podman load, skopeo and wherry image load can read.',
    examples: ['save -o busybox.tar busybox', 'save -o - busybox | ssh other docker load'],
  })
    .requiredOption('-o, --output <file>', 'archive to write; - is stdout')
    .option(
      '--format <docker|oci>',
      'docker: docker save archive and OCI layout in one; oci: only the layout',
      'docker',
    )
    .action(async (refs: string[], flags) => {
      await (await import('../image/archive.ts')).saveImages(refs, flags, context)
    })
}

function addLoad(add: Add, context: Context): void {
  add({
    usage: 'load',
    summary: 'load images from an archive',
    description:
      'Loads the images in an archive of docker save, podman save, skopeo or wherry image save, or in an OCI layout folder.',
    examples: ['load -i busybox.tar', 'load -i layout/', 'load < busybox.tar.gz'],
  })
    .option('-i, --input <file>', 'archive or folder to read; - is stdin', '-')
    .action(async (flags) => {
      await (await import('../image/archive.ts')).loadImages(flags, context)
    })
}

function addRemove(add: Add, context: Context): void {
  add({
    usage: 'rm <refs...>',
    summary: 'remove names and images',
    description:
      'Removes names.  An image is deleted with its last name, unless a function or a process uses it.',
    examples: ['rm busybox', 'rm 4501d580a56d'],
  })
    .alias('remove')
    .action(async (refs: string[], flags) => {
      await (await import('../image/remove.ts')).removeImages(refs, flags, context)
    })
}

function addPrune(add: Add, context: Context): void {
  add({
    usage: 'prune',
    summary: 'remove unused images',
    description:
      'Removes images that have no name and are not used by a function or a process, and the remains of failed pulls.',
    examples: ['prune --dry-run', 'prune --all --older 24h'],
  })
    .option('--all', 'also images that have a name')
    .option('--older <duration>', 'only images that have not been used for this long ("24h")')
    .option('--dry-run', 'only print what would be removed')
    .action(async (flags) => {
      await (await import('../image/remove.ts')).pruneImages(flags, context)
    })
}

// wherry build: options and help. The action is in ../build/, which is loaded when it runs.

import type { Command } from 'commander'
import { DATA_DEFAULT } from '../connect.ts'
import type { Context } from '../context.ts'

const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value]

export function addBuild(program: Command, context: Context): void {
  program
    .command('build')
    .summary('build an image from a Dockerfile')
    .description(
      'Builds an image from a Dockerfile and the files in the folder CONTEXT, and stores it on this machine.  Needs root.',
    )
    .argument(
      '<context>',
      'folder with the files for COPY; "-" reads the Dockerfile from stdin and has no files',
    )
    .option(
      '-t, --tag <name>',
      'name of the image, for example app or 127.0.0.1:5000/app:v1; repeatable',
      collect,
    )
    .option(
      '-f, --file <path>',
      'path of the Dockerfile (default CONTEXT/Dockerfile); "-" reads it from stdin',
    )
    .option(
      '--build-arg <name=value>',
      'value of an ARG; NAME alone takes it from the environment; repeatable',
      collect,
    )
    .option('--target <stage>', 'stop at this stage')
    .option(
      '--platform <platform>',
      'platform of the image, for example linux/arm64; RUN works only for the platform of this machine',
    )
    .option('--label <name=value>', 'label of the image; repeatable', collect)
    .option(
      '--secret <spec>',
      'id=NAME,src=FILE or id=NAME,env=VARIABLE, for RUN --mount=type=secret; repeatable',
      collect,
    )
    .option('--network <network>', 'network of RUN: "host" is this machine’s, "none" is none (default host)')
    .option(
      '--memory <size>',
      'memory limit of each RUN, for example 2Gi (default 80% of this machine’s memory)',
    )
    .option('--no-cache', 'run every step again')
    .option('--pull', 'look for newer base images in registries, even if this machine has them')
    .option('--iidfile <path>', 'write the image’s digest to this file')
    .option('--progress <kind>', '"plain" lines, or "tty" for a terminal (default: tty if stderr is one)')
    .option('-q, --quiet', 'print only the image’s digest')
    .option('--json', 'print the result as JSON')
    .option('--data <dir>', `data folder (or WHERRY_DATA; default ${DATA_DEFAULT})`)
    .addHelpText(
      'after',
      `
Examples:
  wherry build -t app .
  wherry build -t app --build-arg VERSION=2 -f docker/Dockerfile .
  wherry build -t app --secret id=npm,src=$HOME/.npmrc .

Exit codes: 0 done, 1 failed, 2 wrong usage.  With SOURCE_DATE_EPOCH, two builds of the same files give the same image.`,
    )
    .action(async (folder: string, flags) => {
      await (await import('../build/build.ts')).buildFromFlags(folder, flags, context)
    })
}

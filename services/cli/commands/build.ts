// wherry build: an image from a Dockerfile. Knows options and help; what they do is in ../build/, loaded when
// it is needed.

import type { Command } from 'commander'
import { DATA_DEFAULT } from '../connect.ts'
import type { Context } from '../context.ts'

const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value]

export function addBuild(program: Command, context: Context): void {
  program
    .command('build')
    .summary('make an image from a Dockerfile')
    .description(
      'Makes an image from a Dockerfile and the files in the folder CONTEXT, and keeps it on this machine.  Needs root.',
    )
    .argument('<context>', 'folder that COPY takes from; "-" reads a Dockerfile from stdin and has no files')
    .option(
      '-t, --tag <name>',
      'name of the image, for example app or 127.0.0.1:5000/app:v1; again for each further one',
      collect,
    )
    .option('-f, --file <path>', 'the Dockerfile (default CONTEXT/Dockerfile); "-" reads it from stdin')
    .option('--build-arg <name=value>', 'value of an ARG; NAME alone takes it from the environment', collect)
    .option('--target <stage>', 'stop at this stage')
    .option(
      '--platform <platform>',
      'what the image is for, for example linux/arm64; other platforms than this machine’s work without RUN only',
    )
    .option('--label <name=value>', 'label of the image', collect)
    .option(
      '--secret <spec>',
      'id=NAME,src=FILE or id=NAME,env=VARIABLE, for RUN --mount=type=secret',
      collect,
    )
    .option(
      '--network <network>',
      '"host" gives RUN this machine’s network, "none" gives it none (default host)',
    )
    .option(
      '--memory <size>',
      'memory limit of each RUN, for example 2Gi (default four fifths of this machine’s)',
    )
    .option('--no-cache', 'perform every step')
    .option('--pull', 'ask registries for newer base images also when there is one of that name here')
    .option('--iidfile <path>', 'write the image’s digest into this file')
    .option('--progress <kind>', '"plain" lines, or "tty" for a terminal (default: what stderr is)')
    .option('-q, --quiet', 'print the image’s digest only')
    .option('--json', 'print the result as JSON')
    .option('--data <dir>', `data folder (or WHERRY_DATA; default ${DATA_DEFAULT})`)
    .addHelpText(
      'after',
      `
Examples:
  wherry build -t app .
  wherry build -t app --build-arg VERSION=2 -f docker/Dockerfile .
  wherry build -t app --secret id=npm,src=$HOME/.npmrc .

Exit codes: 0 done, 1 failed, 2 wrong usage.  SOURCE_DATE_EPOCH makes two builds of the same files the same image.`,
    )
    .action(async (folder: string, flags) => {
      await (await import('../build/build.ts')).buildFromFlags(folder, flags, context)
    })
}

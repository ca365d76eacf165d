// Help texts, made from the tables of options and commands.

import { describeFlags, type Flag } from './command-line.ts'
import type { Command } from './command.ts'
import { COMMANDS, EXIT_EXEC_FAILED } from './commands.ts'

/** `wherry-oci --help`, with GLOBALFLAGS as the options of the program. */
export function helpText(globalFlags: readonly Flag[]): string {
  const width = Math.max(...COMMANDS.map(({ name, args }) => name.length + args.length)) + 1
  return `wherry-oci: run containers from OCI bundles with the command line of OCI runtimes

Usage: wherry-oci [OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]

Commands:
${COMMANDS.map(({ name, args, about }) => `  ${`${name} ${args}`.padEnd(width)}  ${about}\n`).join('')}
Options:
${describeFlags(globalFlags)}
Examples:
  wherry-oci spec && wherry-oci run box          # a shell in ./rootfs
  podman --runtime "$(command -v wherry-oci)" run --rm docker.io/library/busybox echo hello

Exit codes: run and exec exit with the container's code. Otherwise 0 is success, 1 failure
(exec: ${EXIT_EXEC_FAILED}). See also wherry-oci COMMAND --help.
`
}

/** `wherry-oci COMMAND --help`. */
export const commandHelp = ({ name, args, about, examples, flags }: Command): string =>
  `wherry-oci ${name}: ${about}\n\nUsage: ${`wherry-oci [OPTIONS] ${name} [OPTIONS] ${args}`.trimEnd()}\n${flags.length > 0 ? `\nOptions:\n${describeFlags(flags)}` : ''}
Examples:\n${examples.map((example) => `${`  wherry-oci ${name} ${example}`.trimEnd()}\n`).join('')}`

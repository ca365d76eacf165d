// wherry init: a new function's folder, from a template.  Knows what templates there are (the folders of
// services/cli/templates) and their one placeholder; refuses to know what is in them.

import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import type { Context } from '../context.ts'
import { Failure, usageFailure } from '../failure.ts'

const TEMPLATES = fileURLToPath(new URL('../templates', import.meta.url))
/** A function's name that is also a repository's and a Go module's. */
const NAME = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/
/** Names that YAML takes for something else than text (YAML 1.2.2, 10.3.2). */
const NOT_TEXT = /^(?:null|true|false|\d.*)$/

interface Flags {
  readonly template: string
  readonly into?: string
}

export function addInit(program: Command, context: Context): void {
  const templates = readdirSync(TEMPLATES).sort()
  program
    .command('init')
    .summary('begin a function: handler, test, Dockerfile, wherry.yaml')
    .description(
      'Writes a folder with a function that works: a handler and its test, a Dockerfile and a wherry.yaml for wherry deploy -f.',
    )
    .argument('<name>', 'name of the function: lower-case letters, digits and "-"')
    .option('--template <template>', `one of ${templates.join(', ')}`, 'node')
    .option('--into <folder>', 'folder to write, which must not be there yet (default: ./NAME)')
    .addHelpText(
      'after',
      `
Examples:
  wherry init hello --template node
  cd hello && wherry deploy -f wherry.yaml && wherry invoke hello -d river
  make base-images                             # once, where no public registry can be reached

Exit codes: 0 written, 1 the folder is there already or cannot be written, 2 wrong usage.`,
    )
    .action((name: string, flags: Flags) => {
      if (!NAME.test(name))
        throw usageFailure(
          'init',
          `"${name}" must be 1 to 63 lower-case letters, digits and "-", and begin and end with a letter or digit`,
        )
      if (!templates.includes(flags.template))
        throw usageFailure(
          'init',
          `there is no template "${flags.template}"; there are ${templates.join(', ')}`,
        )
      const folder = flags.into ?? name
      if (existsSync(folder))
        throw new Failure('init', `${folder} is there already`, {
          remedy: 'choose another --into, or remove it',
        })
      writeTemplate(join(TEMPLATES, flags.template), folder, name)
      context.stdout.write(
        `${folder}: a function from the template ${flags.template}\n\nNext:\n    cd ${folder}\n${commandsOf(join(folder, 'README.md'))}`,
      )
    })
}

/** The lines of a README that are commands: its indented ones. */
function commandsOf(readme: string): string {
  return readFileSync(readme, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('    '))
    .map((line) => `${line}\n`)
    .join('')
}

/** All of the template or nothing. */
function writeTemplate(template: string, folder: string, name: string): void {
  try {
    mkdirSync(folder)
    for (const file of readdirSync(template)) {
      const from = join(template, file)
      // A file that begins with a dot would already mean something here.
      const to = join(folder, file === 'dockerignore' ? '.dockerignore' : file)
      const written = file.endsWith('.yaml') && NOT_TEXT.test(name) ? `"${name}"` : name
      writeFileSync(to, readFileSync(from, 'utf8').replaceAll('{{name}}', written), { flag: 'wx' })
      chmodSync(to, statSync(from).mode & 0o755)
    }
  } catch (err) {
    rmSync(folder, { recursive: true, force: true })
    throw new Failure('init', `${folder} cannot be written (${(err as Error).message})`, { cause: err })
  }
}

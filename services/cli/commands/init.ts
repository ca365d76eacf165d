// wherry init: creates a function's folder from a template. Templates are the folders of
// services/cli/templates; their only placeholder is {{name}}.

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
/** A function's name that is also valid for a repository and a Go module. */
const NAME = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/
/** Names that YAML would not read as a string (YAML 1.2.2, 10.3.2). */
const NOT_TEXT = /^(?:null|true|false|\d.*)$/

interface Flags {
  readonly template: string
  readonly into?: string
}

export function addInit(program: Command, context: Context): void {
  const templates = readdirSync(TEMPLATES).sort()
  program
    .command('init')
    .summary('create a function: handler, test, Dockerfile, wherry.yaml')
    .description(
      'Creates a folder with a working function: a handler and its test, a Dockerfile, and a wherry.yaml for wherry deploy -f.',
    )
    .argument('<name>', 'name of the function: lower-case letters, digits and "-"')
    .option('--template <template>', `one of ${templates.join(', ')}`, 'node')
    .option('--into <folder>', 'folder to create; it must not exist yet (default: ./NAME)')
    .addHelpText(
      'after',
      `
Examples:
  wherry init hello --template node
  cd hello && wherry deploy -f wherry.yaml && wherry invoke hello -d river
  make base-images                             # once, if no public registry is reachable

Exit codes: 0 created, 1 the folder already exists or could not be written, 2 wrong usage.`,
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
          `there is no template "${flags.template}"; choose one of ${templates.join(', ')}`,
        )
      const folder = flags.into ?? name
      if (existsSync(folder))
        throw new Failure('init', `${folder} already exists`, {
          remedy: 'choose another --into, or remove it',
        })
      writeTemplate(join(TEMPLATES, flags.template), folder, name)
      context.stdout.write(
        `${folder}: a function from the template ${flags.template}\n\nNext:\n    cd ${folder}\n${commandsOf(join(folder, 'README.md'))}`,
      )
    })
}

/** The commands in a README: its indented lines. */
function commandsOf(readme: string): string {
  return readFileSync(readme, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('    '))
    .map((line) => `${line}\n`)
    .join('')
}

/** Writes the whole template or nothing. */
function writeTemplate(template: string, folder: string, name: string): void {
  try {
    mkdirSync(folder)
    for (const file of readdirSync(template)) {
      const from = join(template, file)
      // A .dockerignore would already take effect inside the templates.
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

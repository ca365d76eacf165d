// Parses a command line in runc's form: options of the program, a command, options of the command, arguments.
// The first argument that is not an option ends the options, because in `exec` the rest is the command line
// of another program.

import { OciError } from './failure.ts'

export interface Flag {
  /** Without dashes. A name of one letter has one dash, others have two. */
  readonly names: readonly string[]
  /** Name of its value in the help; undefined for a switch. */
  readonly value?: string
  readonly about: string
  /** May be given more than once. */
  readonly many?: boolean
}

/** The given values, by each flag's first name. */
export interface Given {
  readonly text: (name: string) => string | undefined
  readonly texts: (name: string) => readonly string[]
  readonly on: (name: string) => boolean
  readonly rest: readonly string[]
}

const usage = (problem: string): OciError => new OciError(`${problem}; see wherry-oci --help`)

/** Parse ARGV. Throws OciError for an unknown option or a missing value. */
export function parseFlags(argv: readonly string[], flags: readonly Flag[]): Given {
  const given = new Map<string, string[]>()
  let at = 0
  for (; at < argv.length; at++) {
    const word = argv[at]!
    if (word === '--') {
      at++
      break
    }
    if (!/^-{1,2}[A-Za-z]/.test(word)) break
    const equals = word.indexOf('=')
    const name = word.slice(0, equals < 0 ? undefined : equals).replace(/^-+/, '')
    const flag = flags.find((candidate) => candidate.names.includes(name))
    if (!flag) throw usage(`unknown option ${word.slice(0, equals < 0 ? undefined : equals)}`)
    const key = flag.names[0]!
    let value = equals < 0 ? undefined : word.slice(equals + 1)
    if (flag.value === undefined) value ??= 'true'
    else if (value === undefined) {
      value = argv[++at]
      if (value === undefined) throw usage(`option ${word} needs a value`)
    }
    given.set(key, flag.many === true ? [...(given.get(key) ?? []), value] : [value])
  }
  return {
    text: (name) => given.get(name)?.at(-1),
    texts: (name) => given.get(name) ?? [],
    on: (name) => given.has(name) && given.get(name)!.at(-1) !== 'false',
    rest: argv.slice(at),
  }
}

/** TEXT, the value of option NAME, as a non-negative integer; 0 if undefined. */
export function wholeNumber(name: string, text: string | undefined): number {
  if (text === undefined) return 0
  if (!/^\d{1,6}$/.test(text)) throw usage(`--${name} ${text} is not a whole number`)
  return Number(text)
}

/** FLAGS as lines of a help text. */
export function describeFlags(flags: readonly Flag[]): string {
  const lines = flags.map(
    (flag) =>
      [
        flag.names.map((name) => `${name.length === 1 ? '-' : '--'}${name}`).join(', ') +
          (flag.value === undefined ? '' : ` ${flag.value}`),
        flag.about,
      ] as const,
  )
  const width = Math.max(0, ...lines.map(([left]) => left.length))
  return lines.map(([left, about]) => `  ${left.padEnd(width)}  ${about}\n`).join('')
}

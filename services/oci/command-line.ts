// Reading a command line the way runc's is written: options of the program, a command, options of the
// command, then arguments; the first argument that is no option ends the options, because in `exec` what
// follows is somebody else's.  A table says which options there are.

import { OciError } from './failure.ts'

export interface Flag {
  /** Without dashes; a name of one letter is written with one dash. */
  readonly names: readonly string[]
  /** Name of its value in the help; without one it is a switch. */
  readonly value?: string
  readonly about: string
  /** May be given more than once. */
  readonly many?: boolean
}

/** What was given, under each flag's first name. */
export interface Given {
  readonly text: (name: string) => string | undefined
  readonly texts: (name: string) => readonly string[]
  readonly on: (name: string) => boolean
  readonly rest: readonly string[]
}

const usage = (problem: string): OciError => new OciError(`${problem}; see wherry-oci --help`)

/** ARGV by FLAGS.  Throws OciError for an option that is not there, or has no value. */
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

/** Option TEXT of NAME as a whole number from 0. */
export function wholeNumber(name: string, text: string | undefined): number {
  if (text === undefined) return 0
  if (!/^\d{1,6}$/.test(text)) throw usage(`--${name} ${text} is not a whole number`)
  return Number(text)
}

/** Lines of a help text. */
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

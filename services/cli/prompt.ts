// A question to the person at the terminal; the answer to a secret one is not shown.  Knows raw terminals.
// Refuses to know what the answer is for.

import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import type { Context } from './context.ts'

const ANSWER_CHARACTERS_MAX = 65_536

/** The first line that is typed after QUESTION; undefined when the input ends or Ctrl-C is pressed first. */
export async function ask(
  { stdin, stderr }: Context,
  question: string,
  { secret = false }: { secret?: boolean } = {},
): Promise<string | undefined> {
  const nowhere = new Writable({
    write(_chunk, _encoding, done) {
      done()
    },
  })
  // As a terminal, readline echoes by itself: to nowhere when the answer is secret.
  const lines = createInterface({
    input: stdin,
    output: secret ? nowhere : stderr,
    terminal: stdin.isTTY === true,
  })
  try {
    stderr.write(question) // not before the terminal has stopped to echo by itself
    const line = await new Promise<string | undefined>((resolve) => {
      lines
        .once('line', resolve)
        .once('SIGINT', () => resolve(undefined))
        .once('close', () => resolve(undefined))
    })
    if (secret) stderr.write('\n')
    return line?.slice(0, ANSWER_CHARACTERS_MAX)
  } finally {
    lines.close()
  }
}

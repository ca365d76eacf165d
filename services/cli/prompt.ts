// Asks the user at the terminal.  The answer to a secret question is not echoed.

import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import type { Context } from './context.ts'

const ANSWER_CHARACTERS_MAX = 65_536

/** The first line typed after QUESTION; undefined if the input ends or Ctrl-C is pressed first. */
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
  // On a terminal readline echoes the input to OUTPUT, which discards it if the answer is secret.
  const lines = createInterface({
    input: stdin,
    output: secret ? nowhere : stderr,
    terminal: stdin.isTTY === true,
  })
  try {
    stderr.write(question) // only after readline has turned off the terminal's own echo
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

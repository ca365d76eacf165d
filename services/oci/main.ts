// The process of the `wherry-oci` command: passes arguments, folders and signals to the program and sets the
// exit code.  It never uses process.stdin, stdout or stderr: opening them would change the flags of
// descriptors that the container inherits.

import { readFileSync, writeSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { runProgram } from './program.ts'

const SIGNALS = [
  'SIGINT',
  'SIGTERM',
  'SIGHUP',
  'SIGQUIT',
  'SIGUSR1',
  'SIGUSR2',
  'SIGCONT',
  'SIGWINCH',
] as const
const STDOUT = 1
const STDERR = 2

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

const write =
  (fd: number) =>
  (text: string): void => {
    try {
      writeSync(fd, text)
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code !== 'EPIPE') throw err // the reader has closed the pipe
    }
  }

process.exitCode = await runProgram(
  process.argv.slice(2),
  {
    nativeDir: process.env.WHERRY_NATIVE ?? fileURLToPath(new URL('../../build/native', import.meta.url)),
    cwd: process.cwd(),
    environment: process.env,
    print: write(STDOUT),
    complain: write(STDERR),
    onSignal: (listener) => {
      for (const signal of SIGNALS) process.on(signal, listener)
    },
  },
  version,
)

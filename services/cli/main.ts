// The process behind the `wherry` command: hands the outside world (arguments, environment, streams,
// signals, parent) to the program and turns its end into an exit code.

import { EXIT_FAILED } from './failure.ts'
import { runProgram } from './program.ts'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

// A reader that went away (`wherry logs x | head`) is no failure; a terminal that closed can be told nothing
// any more.
process.stdout.on('error', (err: NodeJS.ErrnoException) => {
  if (err.code === 'EPIPE') process.exit(0)
  process.stderr.write(`wherry: stdout cannot be written (${err.message})\n`, () => {
    process.exit(EXIT_FAILED)
  })
})
process.stderr.on('error', () => {
  /* nowhere left to say it */
})

process.exitCode = await runProgram(process.argv.slice(2), {
  env: process.env,
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  tellParent: (message) => {
    if (process.connected) process.send?.(message)
  },
  onSignal: (listener) => {
    for (const signal of SIGNALS) process.on(signal, listener)
    return () => {
      for (const signal of SIGNALS) process.off(signal, listener)
    }
  },
  setExitCode: (code) => {
    process.exitCode = code
  },
})

// The process behind the `wherry` command: passes arguments, environment, streams, signals and parent to the
// program, and sets the exit code.

import { EXIT_FAILED } from './failure.ts'
import { runProgram } from './program.ts'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

// A reader that has closed the pipe (`wherry logs x | head`) is not a failure. Errors of stderr have nowhere
// to go.
process.stdout.on('error', (err: NodeJS.ErrnoException) => {
  if (err.code === 'EPIPE') process.exit(0)
  process.stderr.write(`wherry: stdout cannot be written (${err.message})\n`, () => {
    process.exit(EXIT_FAILED)
  })
})
process.stderr.on('error', () => {
  /* nowhere to report it */
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

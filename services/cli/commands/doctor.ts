// wherry doctor: checks whether this machine can run Wherry, and says what to do if it cannot.

import { resolve } from 'node:path'
import type { Command } from 'commander'
import { defined } from '../../contract/defined.ts'
import { DATA_DEFAULT } from '../connect.ts'
import type { Context } from '../context.ts'
import { EXIT_FAILED } from '../failure.ts'
import { formatTable } from '../table.ts'
import { terminalWidth } from '../terminal.ts'
import { NATIVE_DEFAULT } from './version.ts'

const MARKS = { ok: '✓', warn: '!', fail: '✗' } as const
const COLUMNS = [{ title: '' }, { title: 'CHECK' }, { title: 'FOUND', shrinks: true }]

export function addDoctor(program: Command, context: Context): void {
  const { env, stdout, setExitCode } = context
  program
    .command('doctor')
    .summary('check whether this machine can run Wherry')
    .description(
      'Checks kernel features, cgroups, programs, Redis, disk and memory, and says what to do about each problem.',
    )
    .option('--data <dir>', `data folder to check (or WHERRY_DATA; default ${DATA_DEFAULT})`)
    .option(
      '--redis <url>',
      'Redis to check (or WHERRY_REDIS_URL); without it, only whether one can be started is checked',
    )
    .option('--json', 'print the checks as JSON')
    .addHelpText(
      'after',
      `
Examples:
  sudo wherry doctor
  wherry doctor --redis redis://10.0.0.5:6379
  wherry doctor --json | jq -r '.[] | select(.level == "fail") | .remedy'

Exit codes: 0 ready, perhaps with warnings; 1 a check failed (✗), 2 wrong usage.`,
    )
    .action(async ({ data, redis, json }: { data?: string; redis?: string; json?: boolean }) => {
      const { examine } = await import('../examine.ts')
      const redisUrl = redis ?? (env.WHERRY_REDIS_URL || undefined)
      const checks = await examine({
        data: resolve(data ?? (env.WHERRY_DATA || DATA_DEFAULT)),
        nativeDir: env.WHERRY_NATIVE || NATIVE_DEFAULT,
        env,
        ...defined({ redisUrl }),
      })
      if (json) {
        stdout.write(`${JSON.stringify(checks)}\n`)
      } else {
        stdout.write(
          formatTable(
            COLUMNS,
            checks.map((c) => [MARKS[c.level], c.name, c.detail]),
            terminalWidth(context),
          ),
        )
        for (const { level, name, remedy } of checks)
          if (level !== 'ok') stdout.write(`${MARKS[level]} ${name}: ${remedy}\n`)
      }
      if (checks.some((check) => check.level === 'fail')) setExitCode(EXIT_FAILED)
    })
}

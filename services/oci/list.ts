// `list` and `ps`: containers and their processes as tables or JSON.

import type { Given } from './command-line.ts'
import type { CommandContext } from './command.ts'
import { OciError } from './failure.ts'

function formatOf(given: Given): 'table' | 'json' {
  const format = given.text('format') ?? 'table'
  if (format !== 'table' && format !== 'json')
    throw new OciError(`--format ${format} is neither table nor json`)
  return format
}

export function listContainers({ context, given }: CommandContext): void {
  const reports = context.containers
    .list((id) => context.log.warn(`the record of container "${id}" is damaged; delete --force removes it`))
    .map((report) => ({ ...report, owner: 'root' }))
  if (given.on('quiet')) return context.world.print(reports.map(({ id }) => `${id}\n`).join(''))
  if (formatOf(given) === 'json') return context.world.print(`${JSON.stringify(reports)}\n`)
  const rows = [
    ['ID', 'PID', 'STATUS', 'BUNDLE', 'CREATED', 'OWNER'],
    ...reports.map((r) => [r.id, String(r.pid), r.status, r.bundle, r.created, r.owner]),
  ]
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  context.world.print(
    rows
      .map(
        (row) =>
          `${row
            .map((cell, column) => cell.padEnd(widths[column]! + 3))
            .join('')
            .trimEnd()}\n`,
      )
      .join(''),
  )
}

export function printProcesses({ context, given }: CommandContext): void {
  const pids = context.containers.pids(given.rest[0]!)
  if (formatOf(given) === 'json') return context.world.print(`${JSON.stringify(pids)}\n`)
  const { execFileSync } = process.getBuiltinModule('node:child_process')
  const lines = execFileSync('ps', given.rest.length > 1 ? given.rest.slice(1) : ['-ef'], {
    encoding: 'utf8',
  }).split('\n')
  const column = lines[0]!.trim().split(/\s+/).indexOf('PID')
  if (column < 0) throw new OciError('the output of ps with these options has no column PID')
  context.world.print(
    lines
      .filter((line, i) => i === 0 || pids.includes(Number(line.trim().split(/\s+/)[column])))
      .map((line) => `${line}\n`)
      .join(''),
  )
}

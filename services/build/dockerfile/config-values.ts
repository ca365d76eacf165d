// Ports and signals in an image's config.

import { constants } from 'node:os'
import { PORTS_MAX } from './build-config.ts'
import { quoted } from './build-failure.ts'
import type { StageState } from './stage-state.ts'
import type { ListInstruction } from './instructions.ts'

/** "SIGTERM", "TERM", "15", "SIGRTMIN+3" */
export function isSignal(text: string): boolean {
  if (/^\d{1,2}$/.test(text)) return Number(text) >= 1 && Number(text) <= 64
  const name = text.toUpperCase().replace(/^SIG/, '')
  const realTime = /^RTM(?:IN(?:\+(\d{1,2}))?|AX(?:-(\d{1,2}))?)$/.exec(name)
  return realTime === null
    ? Object.hasOwn(constants.signals, `SIG${name}`)
    : Number(realTime[1] ?? realTime[2] ?? 0) <= 30
}

function portNumber(text: string): number {
  return /^\d{1,5}$/.test(text) && Number(text) <= 65_535 ? Number(text) : NaN
}

/** WORDS of an EXPOSE ("80", "53/udp", "8000-8010") as "80/tcp" each. */
export function exposedPorts(
  instruction: ListInstruction,
  words: readonly string[],
  { plan }: StageState,
): string[] {
  const ports = words.flatMap((word) => {
    const { source, location } = instruction
    const inner = word.slice(word.lastIndexOf(':') + 1)
    if (inner !== word)
      plan.warn({
        source,
        location,
        rule: 'ExposeInvalidFormat',
        text: `EXPOSE takes only the port inside the container; the part before ":" in ${quoted(word)} is ignored`,
      })
    const [range = '', protocol = 'tcp', ...more] = inner.split('/')
    const [from = '', to = from, ...rest] = range.split('-')
    const [first, last] = [portNumber(from), portNumber(to)]
    const name = (protocol || 'tcp').toLowerCase()
    if (!(first <= last) || more.length + rest.length > 0)
      throw instruction.fault(`${quoted(word)} is not a valid port`, {
        mark: word,
        hint: 'examples: 80, 53/udp, 8000-8010',
      })
    if (!['tcp', 'udp', 'sctp'].includes(name))
      throw instruction.fault(`${quoted(protocol)} is not a protocol`, {
        mark: protocol,
        hint: 'use tcp, udp or sctp',
      })
    return Array.from({ length: last - first + 1 }, (_, i) => `${first + i}/${name}`)
  })
  if (ports.length > PORTS_MAX)
    throw instruction.fault(`EXPOSE has ${ports.length} ports; the limit is ${PORTS_MAX}`)
  return ports
}

// How a pull looks while it runs: on a terminal one line per layer with bytes, speed and time left, painted
// over itself; elsewhere one line when a layer begins and one when it is there.  Knows the terminal;
// refuses to know where the bytes come from.

import type { LayerProgress } from '../../contract/image.ts'
import type { Context } from '../context.ts'
import { cut, formatAge, formatSize, progressWidth, shortDigest } from '../terminal.ts'

const PAINT_MS = 100
/** More lines than a screen has cannot be painted over. */
const LINES_MAX = 20
const BAR_CHARACTERS = 20

/** A layer as it was last heard of; `startedAt` is when its first bytes came. */
export type LayerLine = Omit<LayerProgress, 'layer'> & { readonly startedAt: number }

/** "[=====>    ] 3.1 MiB of 9.0 MiB  12.1 MiB/s  1s left" */
export function describeLayer ({ state, startedAt, receivedBytes, sizeBytes, unpackedBytes }: LayerLine, now: number): string {
  switch (state) {
    case 'present': return `${formatSize(sizeBytes)}, already there`
    case 'queued': return `${formatSize(sizeBytes)}, waiting`
    case 'done': return `${formatSize(sizeBytes)} in ${formatAge(now - startedAt)}`
    case 'unpacking': return `${formatSize(sizeBytes)} received, unpacking (${formatSize(unpackedBytes)} so far)`
    case 'receiving':
  }
  const filled = Math.floor(BAR_CHARACTERS * receivedBytes / Math.max(1, sizeBytes))
  const bar = `${'='.repeat(filled)}>`.padEnd(BAR_CHARACTERS + 1)
  const perMs = receivedBytes / Math.max(1, now - startedAt)
  const left = perMs === 0 ? '' : `  ${formatAge((sizeBytes - receivedBytes) / perMs)} left`
  return `[${bar}] ${formatSize(receivedBytes)} of ${formatSize(sizeBytes)}  ${formatSize(perMs * 1000)}/s${left}`
}

/** Shows layers on stderr; `end` finishes what is shown and begins anew. */
export function createProgress (context: Context, { quiet }: { quiet: boolean }) {
  const { stderr } = context
  const isLive = stderr.isTTY === true
  const layers = new Map<string, LayerLine>()
  let painted = 0
  let timer: NodeJS.Timeout | undefined

  function paint (): void {
    const now = performance.now()
    const width = progressWidth(context)
    const lines = [...layers].slice(-LINES_MAX).map(([digest, layer]) => `\u001b[2K${cut(`${shortDigest(digest)}  ${describeLayer(layer, now)}`, width)}\n`)
    stderr.write(`${painted > 0 ? `\u001b[${painted}A` : ''}${lines.join('')}`)
    painted = lines.length
  }

  return {
    onLayer (progress: LayerProgress): void {
      if (quiet) return
      const { layer, state, sizeBytes } = progress
      const known = layers.get(layer)
      const begins = known === undefined || known.state === 'queued'
      const line = { ...progress, startedAt: begins ? performance.now() : known.startedAt }
      layers.set(layer, line)
      if (isLive) timer ??= setInterval(paint, PAINT_MS)
      else if (state === 'receiving' && begins) stderr.write(`${shortDigest(layer)}  ${formatSize(sizeBytes)}\n`)
      else if (state === 'done' || state === 'present') stderr.write(`${shortDigest(layer)}  ${describeLayer(line, performance.now())}\n`)
    },

    end (): void {
      clearInterval(timer)
      timer = undefined
      if (isLive && layers.size > 0) paint()
      layers.clear()
      painted = 0
    },
  }
}

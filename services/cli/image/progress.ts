// How a pull looks while it runs: on a terminal one line per layer with bytes, speed and time left, painted
// over itself; elsewhere one line when a layer begins and one when it is there.  Knows the terminal;
// refuses to know where the bytes come from.

import type { LayerProgress } from '../../contract/image.ts'
import type { Context } from '../context.ts'
import { cut, formatAge, formatSize, progressHeight, progressWidth, shortDigest } from '../terminal.ts'

const PAINT_MS = 100
/** More lines than a screen has cannot be painted over. */
const LINES_MAX = 20
const BAR_CHARACTERS = 20
/** A shorter one says nothing. */
const BAR_CHARACTERS_MIN = 5

/** A layer as it was last heard of, at `heardAt`; `startedAt` is when its first bytes came. */
export type LayerLine = Omit<LayerProgress, 'layer'> & {
  readonly startedAt: number
  readonly heardAt: number
}

/** "[=====>    ] 3.1 MiB of 9.0 MiB  12.1 MiB/s  1s left", with as much of a bar as fits into WIDTH. */
export function describeLayer(
  { state, startedAt, heardAt, receivedBytes, sizeBytes, unpackedBytes }: LayerLine,
  now: number,
  width = Infinity,
): string {
  switch (state) {
    case 'present':
      return `${formatSize(sizeBytes)}, already there`
    case 'queued':
      return `${formatSize(sizeBytes)}, waiting`
    case 'done':
      return `${formatSize(sizeBytes)} in ${formatAge(heardAt - startedAt)}`
    case 'unpacking':
      return `${formatSize(sizeBytes)} received, unpacking (${formatSize(unpackedBytes)} so far)`
    case 'receiving':
  }
  const perMs = receivedBytes / Math.max(1, now - startedAt)
  const left = perMs === 0 ? '' : `  ${formatAge((sizeBytes - receivedBytes) / perMs)} left`
  const text = `${formatSize(receivedBytes)} of ${formatSize(sizeBytes)}  ${formatSize(perMs * 1000)}/s${left}`
  const characters = Math.min(BAR_CHARACTERS, width - text.length - '[>] '.length)
  if (characters < BAR_CHARACTERS_MIN) return text
  const filled = Math.floor((characters * receivedBytes) / Math.max(1, sizeBytes))
  return `[${`${'='.repeat(filled)}>`.padEnd(characters + 1)}] ${text}`
}

/**
 * At most MAX of LAYERS, in their order: those under way before those that wait, and these before those that
 * are there.
 */
function chooseShown(
  layers: ReadonlyArray<[string, LayerLine]>,
  max: number,
): ReadonlyArray<[string, LayerLine]> {
  const rank = ({ state }: LayerLine): number =>
    state === 'receiving' || state === 'unpacking' ? 0 : state === 'queued' ? 1 : 2
  const chosen = new Set(layers.toSorted(([, a], [, b]) => rank(a) - rank(b)).slice(0, max))
  return layers.filter((layer) => chosen.has(layer))
}

/** Shows layers on stderr; `end` finishes what is shown and begins anew. */
export function createProgress(context: Context, { quiet }: { quiet: boolean }) {
  const { stderr } = context
  const isLive = stderr.isTTY === true
  const layers = new Map<string, LayerLine>()
  let painted = 0
  let timer: NodeJS.Timeout | undefined

  function paint(): void {
    const now = performance.now()
    const width = progressWidth(context)
    const lines = chooseShown([...layers], Math.min(LINES_MAX, progressHeight(context))).map(
      ([digest, layer]) => {
        const name = `${shortDigest(digest)}  `
        return `\u001b[2K${cut(`${name}${describeLayer(layer, now, width - name.length)}`, width)}\n`
      },
    )
    stderr.write(`${painted > 0 ? `\u001b[${painted}A` : ''}${lines.join('')}`)
    painted = lines.length
  }

  return {
    onLayer(progress: LayerProgress): void {
      if (quiet) return
      const { layer, state, sizeBytes } = progress
      const known = layers.get(layer)
      const begins = known === undefined || known.state === 'queued'
      // Workers are asked again and again: what is done was done when that was first said.
      const heardAt = state === 'done' && known?.state === 'done' ? known.heardAt : performance.now()
      const line = { ...progress, heardAt, startedAt: begins ? heardAt : known.startedAt }
      layers.set(layer, line)
      if (isLive) timer ??= setInterval(paint, PAINT_MS)
      else if (state === 'receiving' && begins)
        stderr.write(`${shortDigest(layer)}  ${formatSize(sizeBytes)}\n`)
      else if (state === 'done' || state === 'present')
        stderr.write(`${shortDigest(layer)}  ${describeLayer(line, performance.now())}\n`)
    },

    end(): void {
      clearInterval(timer)
      timer = undefined
      if (isLive && layers.size > 0) paint()
      layers.clear()
      painted = 0
    },
  }
}

// Progress of a pull or push: on a terminal one line per layer with bytes, speed and time left, repainted in
// place; otherwise one line when a layer starts and one when it is done.

import type { LayerProgress } from '../../contract/image.ts'
import type { Context } from '../context.ts'
import { createPainter } from '../painter.ts'
import { formatAge, formatSize, shortDigest } from '../terminal.ts'

const LINES_MAX = 20
const BAR_CHARACTERS = 20
/** Shorter bars are omitted. */
const BAR_CHARACTERS_MIN = 5

/** A layer's last report, received at `heardAt`; its first bytes arrived at `startedAt`. */
export type LayerLine = Omit<LayerProgress, 'layer'> & {
  readonly startedAt: number
  readonly heardAt: number
}

/** "[=====>    ] 3.1 MiB of 9.0 MiB  12.1 MiB/s  1s left", with as long a bar as fits into WIDTH. */
export function describeLayer(
  { state, startedAt, heardAt, receivedBytes, sizeBytes, unpackedBytes }: LayerLine,
  now: number,
  width = Infinity,
): string {
  switch (state) {
    case 'present':
      return `${formatSize(sizeBytes)}, already exists`
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
 * At most MAX of LAYERS, in their order. Layers in progress are preferred to queued ones, and queued ones to
 * finished ones.
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

/** Shows layers on stderr. `end` leaves the final state on the screen; the display can be used again. */
export function createProgress(context: Context, { quiet }: { quiet: boolean }) {
  const { stderr } = context
  const isLive = stderr.isTTY === true
  const layers = new Map<string, LayerLine>()
  const painter = createPainter(stderr, ({ columns, rows }) => {
    const now = performance.now()
    return chooseShown([...layers], Math.min(LINES_MAX, rows)).map(([digest, layer]) => {
      const name = `${shortDigest(digest)}  `
      return `${name}${describeLayer(layer, now, columns - name.length)}`
    })
  })

  return {
    onLayer(progress: LayerProgress): void {
      if (quiet) return
      const { layer, state, sizeBytes } = progress
      const known = layers.get(layer)
      const begins = known === undefined || known.state === 'queued'
      // Workers repeat their last report, so a layer was done when that was first reported.
      const heardAt = state === 'done' && known?.state === 'done' ? known.heardAt : performance.now()
      const line = { ...progress, heardAt, startedAt: begins ? heardAt : known.startedAt }
      layers.set(layer, line)
      if (isLive) painter.start()
      else if (state === 'receiving' && begins)
        stderr.write(`${shortDigest(layer)}  ${formatSize(sizeBytes)}\n`)
      else if (state === 'done' || state === 'present')
        stderr.write(`${shortDigest(layer)}  ${describeLayer(line, performance.now())}\n`)
    },

    end(): void {
      if (isLive && layers.size > 0) painter.paint()
      painter.release()
      layers.clear()
    },
  }
}

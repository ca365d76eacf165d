// COPY and ADD as single operations: which file goes where, with which owner and mode (Dockerfile reference,
// "COPY", "Destination"). Pure: selected files in, operations and their fingerprint out.

import { posix } from 'node:path'
import type { ContextEntry } from './context/context.ts'
import type { CopySelection } from './context/context-select.ts'
import type { CopyOperation } from './layer-tool.ts'

export interface CopyPlanOptions {
  /** Absolute and normal. */
  readonly destination: string
  /** undefined keeps that of the source. */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined
  readonly mode?: (mode: number, isDirectory: boolean) => number
  readonly keepXattrs: boolean
  /** Everything about ENTRY that the layer will show, except name, mode and times. */
  readonly contentOf: (entry: ContextEntry) => Promise<string>
}

export interface CopyPlan {
  readonly operations: readonly CopyOperation[]
  /** Everything that determines the layer except times, for the cache. */
  readonly fingerprint: readonly unknown[]
}

/** PARTS as a path in the stage, without a leading slash. */
function joined(...parts: readonly string[]): string {
  return posix
    .join('/', ...parts)
    .slice(1)
    .replace(/\/$/, '')
}

/** SELECTION as operations in order: folders before their contents. */
export async function planCopy(selection: CopySelection, options: CopyPlanOptions): Promise<CopyPlan> {
  const { destination, owner, keepXattrs } = options
  const operations: CopyOperation[] = []
  const fingerprint: unknown[] = []
  if (selection.layout === 'directory' && joined(destination) !== '') {
    operations.push({ what: 'directory', to: joined(destination), owner: owner ?? { uid: 0, gid: 0 } })
    fingerprint.push([joined(destination), owner])
  }
  for (const { entry, name } of selection.items) {
    const isDirectory = entry.kind === 'directory'
    const mode =
      options.mode === undefined || entry.kind === 'link' ? entry.mode : options.mode(entry.mode, isDirectory)
    const isNamed = selection.layout === 'file' && joined(destination) !== ''
    const to = isNamed ? joined(destination) : joined(destination, name)
    operations.push({
      what: 'copy',
      from: entry.path,
      to,
      mode,
      owner,
      keepXattrs,
      ...(isNamed && { base: name }),
    })
    fingerprint.push([to, isNamed ? name : '', entry.kind, mode, owner, await options.contentOf(entry)])
  }
  return { operations, fingerprint }
}

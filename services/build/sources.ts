// Sources of COPY, ADD and mounts: the build context, or layers (a stage, an image, or a folder that was
// downloaded or unpacked). Both are presented as a context, so that context-select.ts works for both.

import { realpathSync } from 'node:fs'
import type { BuildContext, ContextEntry, Folder } from './context/context.ts'
import type { CopySelection } from './context/context-select.ts'
import type { CopySource, LayerTool } from './layer-tool.ts'
import type { ListedEntry } from './layer-listing.ts'

export interface FileSource {
  readonly context: BuildContext
  readonly copySource: CopySource
  /** Files keep their owners and attributes; those of a build context belong to root. */
  readonly isOwned: boolean
  /** Everything about ENTRY except name and mode. */
  contentOf(entry: ContextEntry): Promise<string>
  /** Must be called with the selection before `contentOf`. */
  prepare(selection: CopySelection): Promise<void>
}

/** Paths per call of wherry-layer, because the kernel limits a command line. */
const PATHS_PER_CALL = 1000
const PATHS_BYTES_PER_CALL = 512 * 1024

/** CONTEXT in folder DIR as a source. */
export function contextSource(context: BuildContext, dir: string): FileSource {
  return {
    context,
    copySource: { directory: realpathSync(dir) },
    isOwned: false,
    contentOf: async (entry) =>
      entry.kind === 'file' ? await context.digest(entry) : (entry.linkTarget ?? ''),
    prepare: async () => {},
  }
}

const KINDS = { file: 'file', directory: 'directory', link: 'link', fifo: 'special' } as const

function contextEntry({ type, path, mode, sizeBytes, link }: ListedEntry): ContextEntry {
  return {
    path,
    kind: KINDS[type],
    mode,
    sizeBytes,
    mtimeMs: 0,
    identity: '',
    isHidden: false,
    ...(type === 'link' && { linkTarget: link }),
    ...(type === 'fifo' && { what: 'a pipe' }),
  }
}

const NOTHING: Folder = { entries: [], ignored: new Map() }

/** LISTED, a stage's whole tree, as a context called NAME. */
function treeContext(
  name: string,
  listed: readonly ListedEntry[],
  digestOf: (entry: ContextEntry) => Promise<string>,
): BuildContext {
  const folders = new Map<string, ContextEntry[]>()
  for (const entry of listed.slice(1)) {
    const folder = entry.path.slice(0, Math.max(0, entry.path.lastIndexOf('/')))
    const entries = folders.get(folder)
    if (entries) entries.push(contextEntry(entry))
    else folders.set(folder, [contextEntry(entry)])
  }
  return {
    name,
    ignoreName: '',
    root: contextEntry(listed[0]!),
    read: async (entry) => {
      const entries = folders.get(entry.path)
      return entries === undefined ? NOTHING : { entries, ignored: NOTHING.ignored }
    },
    open: () => {
      throw new Error('files of layers cannot be opened one by one')
    },
    digest: digestOf,
  }
}

/**
 * The stage of LAYERS (folders, lowest first), called NAME in messages. DRAFT is a prepared draft folder for
 * reading it.
 */
export async function layersSource(
  tool: LayerTool,
  draft: string,
  name: string,
  layers: readonly string[],
): Promise<FileSource> {
  const [listed] = await tool.list('names', draft, layers, [''])
  const owners = new Map(listed!.map((entry) => [entry.path, `${entry.uid}:${entry.gid}`]))
  const digests = new Map<string, string>()

  async function prepare(selection: CopySelection): Promise<void> {
    const missing = selection.items
      .filter(({ entry }) => entry.kind === 'file' && !digests.has(entry.path))
      .map(({ entry }) => entry.path)
    for (let at = 0; at < missing.length;) {
      let end = at
      for (
        let bytes = 0;
        end < missing.length && end - at < PATHS_PER_CALL && bytes < PATHS_BYTES_PER_CALL;
        end++
      )
        bytes += Buffer.byteLength(missing[end]!)
      const paths = missing.slice(at, end)
      const found = await tool.list('contents', draft, layers, paths)
      for (const [i, path] of paths.entries()) digests.set(path, found[i]?.[0]?.digest ?? '')
      at = end
    }
  }

  const contentOf = async (entry: ContextEntry): Promise<string> =>
    `${owners.get(entry.path)} ${entry.kind === 'file' ? digests.get(entry.path) : (entry.linkTarget ?? '')}`
  return {
    context: treeContext(name, listed!, contentOf),
    copySource: { layers },
    isOwned: true,
    contentOf,
    prepare,
  }
}

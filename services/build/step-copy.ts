// COPY, ADD and WORKDIR. The files are selected and hashed first. They are written only if the cache has no
// layer of the same files at the same places.

import { closeSync, openSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { unpackArchive } from './archives.ts'
import { stageFiles, type BuildShared, type StepStage } from './build-context.ts'
import type { CachedLayer } from './cache.ts'
import { applyChmod } from './dockerfile/chmod.ts'
import { selectFiles, type CopyItem, type CopySelection } from './context/context-select.ts'
import { planCopy, type CopyPlan } from './copy-plan.ts'
import type { CopyOperation, CopySource } from './layer-tool.ts'
import { ownerOf, userOf } from './owners.ts'
import { layersSource, type FileSource } from './sources.ts'
import type { AddStep, CopyStep, WorkdirStep } from './dockerfile/steps.ts'

export type PerformedStep = CachedLayer & { readonly isCached: boolean }

type FilesStep = CopyStep | AddStep

/** Files from one source, with the operations on them. */
interface Part {
  readonly source: CopySource
  readonly plan: CopyPlan
}

/** What a step needs to select its parts. */
interface Work {
  readonly shared: BuildShared
  readonly step: FilesStep
  /** Resolved --chown. */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined
  readonly draft: string
}

const ROOT = { uid: 0, gid: 0 }
const INLINE_MODE = 0o644

/**
 * SELECTION of FILES as a part. --chown and --chmod do not apply to the contents of an archive (ISUNPACKED).
 */
async function partOf(
  { step, owner }: Work,
  files: FileSource,
  selection: CopySelection,
  isUnpacked = false,
): Promise<Part> {
  const { chmod, destination } = step
  await files.prepare(selection)
  const plan = await planCopy(selection, {
    destination,
    contentOf: files.contentOf,
    keepXattrs: files.isOwned,
    owner: isUnpacked ? undefined : (owner ?? (files.isOwned ? undefined : ROOT)),
    ...(chmod !== undefined &&
      !isUnpacked && { mode: (mode: number, isDirectory: boolean) => applyChmod(chmod, mode, isDirectory) }),
  })
  return { source: files.copySource, plan }
}

/** The files in FOLDER, which a step created. They belong to root, unless they come from an archive. */
async function madePart(work: Work, folder: string, isUnpacked = false): Promise<Part> {
  const { shared, step, draft } = work
  const files = await layersSource(shared.tool, draft, 'the downloaded files', [folder])
  const selection = await selectFiles(files.context, {
    sources: ['.'],
    excludes: [],
    keepsParents: false,
    isIntoDirectory: true,
    fault: step.fault,
  })
  const isOne = !isUnpacked && selection.items.length === 1 && !step.isIntoDirectory
  return await partOf(work, files, { ...selection, layout: isOne ? 'file' : 'directory' }, isUnpacked)
}

/** Heredocs. */
async function inlineParts(work: Work): Promise<Part[]> {
  const { step, draft } = work
  if (step.files.length === 0) return []
  const folder = join(draft, 'inline')
  await mkdir(folder, { mode: 0o755 })
  for (const { name, content } of step.files)
    await writeFile(join(folder, name), content, { mode: INLINE_MODE })
  return [await madePart(work, folder)]
}

/** Unpacks the file that OPEN opens, called NAME, into FOLDER, if it is an archive. */
async function unpackOpened(
  { nativeDir, signal }: BuildShared,
  open: () => number,
  name: string,
  folder: string,
): Promise<boolean> {
  const fd = open()
  try {
    return await unpackArchive({ nativeDir, signal, fd, name, folder })
  } finally {
    closeSync(fd)
  }
}

/** ADD: unpacks those of ITEMS that are archives; the others are copied. */
async function archiveParts(
  work: Work,
  items: readonly CopyItem[],
): Promise<{ parts: Part[]; rest: CopyItem[] }> {
  const { shared, draft } = work
  const parts: Part[] = []
  const rest: CopyItem[] = []
  for (const [i, item] of items.entries()) {
    const folder = join(draft, `archive${i}`)
    const isFile = item.isDirect && item.entry.kind === 'file'
    if (
      isFile &&
      (await unpackOpened(shared, () => shared.context.context.open(item.entry), item.entry.path, folder))
    )
      parts.push(await madePart(work, folder, true))
    else rest.push(item)
  }
  return { parts, rest }
}

async function localParts(work: Work): Promise<Part[]> {
  const { shared, step, draft } = work
  if (step.sources.length === 0) return []
  const from = step.kind === 'copy' ? step.from : { kind: 'context' as const }
  const files = from.kind === 'context' ? shared.context : await stageFiles(shared, draft, from)
  const { sources, excludes, isIntoDirectory, fault } = step
  const selection = await selectFiles(files.context, {
    sources,
    excludes,
    isIntoDirectory,
    keepsParents: step.kind === 'copy' && step.keepsParents,
    fault,
  })
  if (step.kind === 'copy' || !step.unpacksLocal) return [await partOf(work, files, selection)]
  const { parts, rest } = await archiveParts(work, selection.items)
  return rest.length === 0 && parts.length > 0
    ? parts
    : [...parts, await partOf(work, files, { ...selection, items: rest })]
}

/** ADD of URLs: each is one file with mode 600 (Dockerfile reference, "ADD"). */
async function remoteParts(work: Work): Promise<Part[]> {
  const { shared, step, draft } = work
  if (step.kind === 'copy') return []
  const parts: Part[] = []
  for (const [i, { url, name }] of step.urls.entries()) {
    const folder = join(draft, `url${i}`)
    await mkdir(folder, { mode: 0o755 })
    const file = name === '' ? basename(step.destination) : name
    await shared.download({ url, path: join(folder, file), checksum: step.checksum, signal: shared.signal })
    const unpacked = join(draft, `unpacked${i}`)
    const isUnpacked =
      step.unpacksRemote &&
      (await unpackOpened(shared, () => openSync(join(folder, file), 'r'), url, unpacked))
    parts.push(await madePart(work, isUnpacked ? unpacked : folder, isUnpacked))
  }
  return parts
}

/**
 * Selects PARTS in a draft, looks them up in the cache, and writes them over BELOW if they are not cached.
 */
async function perform(
  shared: BuildShared,
  what: string,
  below: readonly string[],
  find: (draft: string) => Promise<readonly Part[]>,
): Promise<PerformedStep> {
  return await shared.layers.withDraft(async (draft) => {
    const parts = await find(draft)
    const key = shared.cache.key([what, below, parts.map(({ plan }) => plan.fingerprint)])
    const kept = shared.usesCache ? await shared.cache.find(key) : undefined
    if (kept) return { ...kept, isCached: true }
    const layer = await shared.layers.make(below, async (target, layers) => {
      for (const { source, plan } of parts) await shared.tool.copy(target, layers, source, plan.operations)
    })
    await shared.cache.remember(key, layer)
    return { layer, isCached: false }
  })
}

/** A key that does not depend on the files, because files from the same layers cannot have changed. */
async function quickKey(
  shared: BuildShared,
  step: FilesStep,
  below: readonly string[],
  stage: StepStage,
): Promise<string | undefined> {
  if (step.kind !== 'copy' || step.from.kind === 'context') return undefined
  const { layers } = await shared.layersOf(step.from)
  const { sources, excludes, files, destination, isIntoDirectory, keepsParents, chmod, chown } = step
  const owner = chown === undefined ? [] : [chown, stage.diffIds]
  return shared.cache.key([
    'from',
    below,
    layers.map((layer) => layer.diffId),
    sources,
    excludes,
    files,
    destination,
    isIntoDirectory,
    keepsParents,
    chmod,
    owner,
  ])
}

/** COPY or ADD.  Throws InvalidRequest, StartError, ContentError, SyscallError, RegistryError. */
export async function performCopy(
  shared: BuildShared,
  step: FilesStep,
  stage: StepStage,
): Promise<PerformedStep> {
  // A linked layer does not depend on the stage, so it is the same whatever is below it.
  const below = step.isLinked ? [] : stage.diffIds
  const quick = await quickKey(shared, step, below, stage)
  const kept = quick !== undefined && shared.usesCache ? await shared.cache.find(quick) : undefined
  if (kept) return { ...kept, isCached: true }
  const performed = await performFiles(shared, step, below, stage)
  if (quick !== undefined) await shared.cache.remember(quick, performed.layer)
  return performed
}

async function performFiles(
  shared: BuildShared,
  step: FilesStep,
  below: readonly string[],
  stage: StepStage,
): Promise<PerformedStep> {
  return await perform(shared, step.kind, below, async (draft) => {
    const owner =
      step.chown === undefined ? undefined : await ownerOf(shared.layers.pathsOf(stage.diffIds), step.chown)
    const work = { shared, step, owner, draft }
    return [...(await localParts(work)), ...(await remoteParts(work)), ...(await inlineParts(work))]
  })
}

/** WORKDIR: creates the directory for the current user, unless it exists. */
export async function performWorkdir(
  shared: BuildShared,
  step: WorkdirStep,
  stage: StepStage,
): Promise<PerformedStep> {
  return await perform(shared, 'workdir', stage.diffIds, async () => {
    const { uid, gid } = await userOf(shared.layers.pathsOf(stage.diffIds), step.user)
    const operation: CopyOperation = {
      what: 'directory',
      to: step.path.replace(/^\/+/, ''),
      owner: { uid, gid },
    }
    return [{ source: { layers: [] }, plan: { operations: [operation], fingerprint: [operation] } }]
  })
}

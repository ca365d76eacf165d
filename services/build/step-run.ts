// RUN: prepares the files and folders for a step's mounts, runs the step in a container on top of its stage,
// and makes a layer of the files that it wrote.

import { mkdir, readdir, rename, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { stageFiles, type BuildShared, type StepStage } from './build-context.ts'
import type { CachedLayer } from './cache.ts'
import { selectFiles } from './context/context-select.ts'
import { planCopy, type CopyPlan } from './copy-plan.ts'
import { homeOf, userOf } from './owners.ts'
import { prepareDraft, type CopySource } from './layer-tool.ts'
import { runInContainer, type ReadyMount } from './run-container.ts'
import type { RunStep, StepMount } from './dockerfile/steps.ts'

type BindMount = Extract<StepMount, { type: 'bind' }>
type CacheMount = Extract<StepMount, { type: 'cache' }>
type SecretMount = Extract<StepMount, { type: 'secret' }>

/** The folder for the script of a heredoc while it runs.  The script is mounted there read-only. */
const SCRIPT_FOLDER = '/.wherry'

/** The initial files of a bind mount or a new cache. */
interface Copied {
  readonly plan: CopyPlan
  readonly source: CopySource
  readonly isFile: boolean
}

/** The mounts and variables of a step, and what to release after it. */
interface Prepared {
  readonly mounts: ReadyMount[]
  readonly env: string[]
  readonly releases: Array<() => void>
}

const ROOT = { uid: 0, gid: 0 }

async function findCopied(
  shared: BuildShared,
  step: RunStep,
  draft: string,
  { from, source }: BindMount | CacheMount,
): Promise<Copied | undefined> {
  if (from.kind === 'scratch') return undefined
  const files = from.kind === 'context' ? shared.context : await stageFiles(shared, draft, from)
  const request = {
    sources: [source.replace(/^\/+/, '')],
    excludes: [],
    keepsParents: false,
    isIntoDirectory: false,
    fault: step.fault,
  }
  const selection = await selectFiles(files.context, request)
  await files.prepare(selection)
  const isFile = selection.layout === 'file'
  const plan = await planCopy(selection, {
    destination: isFile ? '/file' : '/root',
    owner: files.isOwned ? undefined : ROOT,
    keepXattrs: files.isOwned,
    contentOf: files.contentOf,
  })
  return { plan, source: files.copySource, isFile }
}

/** Copy COPIED into FOLDER/upper, as the folder "root" or the file "file".  Returns its path. */
async function copyTo(
  shared: BuildShared,
  folder: string,
  { plan, source, isFile }: Copied,
): Promise<string> {
  await mkdir(folder, { mode: 0o700 })
  await prepareDraft(folder)
  await shared.tool.copy(folder, [], source, plan.operations)
  return join(folder, 'upper', isFile ? 'file' : 'root')
}

/** The fingerprint of a step's mounts: the contents of binds, the names of the others. */
async function fingerprintOf(shared: BuildShared, step: RunStep): Promise<readonly unknown[]> {
  const prints: unknown[] = []
  for (const mount of step.mounts) {
    if (mount.type === 'secret') prints.push(['secret', mount.id, mount.targetPath, mount.env])
    else if (mount.type === 'tmpfs') prints.push(['tmpfs', mount.targetPath])
    else if (mount.type === 'cache') prints.push(['cache', mount.id, mount.targetPath])
    else {
      const copied = await shared.layers.withDraft((draft) => findCopied(shared, step, draft, mount))
      prints.push(['bind', mount.targetPath, copied?.plan.fingerprint])
    }
  }
  return prints
}

async function addBind(
  shared: BuildShared,
  step: RunStep,
  draft: string,
  folder: string,
  mount: BindMount,
  to: Prepared,
): Promise<void> {
  const copied = await findCopied(shared, step, draft, mount)
  if (copied === undefined) return
  to.mounts.push({
    target: mount.targetPath,
    source: await copyTo(shared, folder, copied),
    isFile: copied.isFile,
    isReadOnly: mount.isReadOnly,
  })
}

/** The folder of MOUNT's cache.  A new one starts with the files of its "from". */
async function takeCache(
  shared: BuildShared,
  step: RunStep,
  draft: string,
  folder: string,
  mount: CacheMount,
  to: Prepared,
): Promise<string> {
  const cache = await shared.folders.take(mount, shared.signal)
  to.releases.push(cache.release)
  const copied = cache.isNew ? await findCopied(shared, step, draft, mount) : undefined
  if (copied !== undefined && !copied.isFile) {
    const path = await copyTo(shared, folder, copied)
    for (const name of await readdir(path)) await rename(join(path, name), join(cache.path, name))
  }
  return cache.path
}

function addSecret(shared: BuildShared, step: RunStep, mount: SecretMount, to: Prepared): void {
  const value = shared.secrets.value(mount.id)
  if (value === undefined) {
    if (mount.isRequired)
      throw step.fault(`the secret "${mount.id}" was not given`, {
        mark: mount.id,
        hint: `build with --secret id=${mount.id},src=FILE or --secret id=${mount.id},env=NAME`,
      })
    return
  }
  if (mount.targetPath !== undefined)
    to.mounts.push({
      target: mount.targetPath,
      source: shared.secrets.file(mount.id, mount)!,
      isFile: true,
      isReadOnly: true,
    })
  if (mount.env !== undefined) to.env.push(`${mount.env}=${Buffer.from(value).toString('utf8')}`)
}

async function prepareMounts(shared: BuildShared, step: RunStep, draft: string, to: Prepared): Promise<void> {
  const caches = new Map<string, string>()
  for (const [i, mount] of step.mounts.entries()) {
    const folder = join(draft, `mount${i}`)
    if (mount.type === 'bind') await addBind(shared, step, draft, folder, mount, to)
    else if (mount.type === 'tmpfs')
      to.mounts.push({ target: mount.targetPath, isFile: false, isReadOnly: false })
    else if (mount.type === 'secret') addSecret(shared, step, mount, to)
    else {
      const source = caches.get(mount.id) ?? (await takeCache(shared, step, draft, folder, mount, to))
      caches.set(mount.id, source)
      to.mounts.push({ target: mount.targetPath, source, isFile: false, isReadOnly: mount.isReadOnly })
    }
  }
}

/** Mount the script of a heredoc that begins with "#!".  Returns the arguments that run it. */
async function addScript({ argv, script }: RunStep, draft: string, to: Prepared): Promise<readonly string[]> {
  if (script === undefined) return argv
  const source = join(draft, 'script')
  const target = `${SCRIPT_FOLDER}/${script.path.slice(script.path.lastIndexOf('/') + 1)}`
  await mkdir(dirname(source), { recursive: true })
  await writeFile(source, script.content, { mode: 0o755 })
  to.mounts.push({ target, source, isFile: true, isReadOnly: true })
  return [target, ...argv.slice(1)]
}

async function runInDraft(
  shared: BuildShared,
  step: RunStep,
  stage: StepStage,
  draft: string,
  layers: readonly string[],
): Promise<void> {
  const prepared: Prepared = { mounts: [], env: [], releases: [] }
  try {
    const user = await userOf(layers, step.user)
    await prepareMounts(shared, step, draft, prepared)
    const args = await addScript(step, draft, prepared)
    const own = [...step.proxyEnv, ...step.env, ...prepared.env]
    const home = own.some((variable) => variable.startsWith('HOME='))
      ? []
      : [`HOME=${await homeOf(layers, user)}`]
    const runtime = await shared.runtime()
    await runInContainer(runtime, {
      draft,
      layers,
      args,
      env: [...home, ...own],
      cwd: step.workingDir,
      user,
      mounts: prepared.mounts,
      network: step.network === 'default' ? shared.network : step.network,
      memoryBytes: shared.memoryBytes,
      cpus: shared.cpus,
      onOutput: stage.onOutput,
      signal: shared.signal,
    })
  } finally {
    for (const release of prepared.releases) release()
  }
}

/** The layer of STEP, from the cache if none of the step's inputs has changed. */
export async function performRun(
  shared: BuildShared,
  step: RunStep,
  stage: StepStage,
): Promise<CachedLayer & { readonly isCached: boolean }> {
  const { argv, script, env, workingDir, user, network } = step
  const mounts = await fingerprintOf(shared, step)
  const key = shared.cache.key([
    'run',
    stage.diffIds,
    argv,
    script?.content,
    env,
    workingDir,
    user,
    network === 'default' ? shared.network : network,
    mounts,
  ])
  const kept = shared.usesCache ? await shared.cache.find(key) : undefined
  if (kept) return { ...kept, isCached: true }
  const layer = await shared.layers.make(stage.diffIds, (draft, layers) =>
    runInDraft(shared, step, stage, draft, layers),
  )
  await shared.cache.remember(key, layer)
  return { layer, isCached: false }
}

// Image builds for one test: a temporary store with a busybox image called "base", and `build`, which takes a
// Dockerfile and its context files as strings and returns the image, the events, and the number of steps
// that ran.

import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Test } from 'tap'
import { readImageFile } from '../../services/images/image-file.ts'
import { makeBusyboxLayer } from '../../infra/demo/image.ts'
import { readBuildFiles } from '../../services/build/context/build-files.ts'
import { buildImage, type BuildRequest } from '../../services/build/builder.ts'
import { createLayerTool, prepareDraft } from '../../services/build/layer-tool.ts'
import type { ListedEntry } from '../../services/build/layer-listing.ts'
import type { BuildEvent } from '../../services/build/progress.ts'
import type { BuiltImage } from '../../services/build/result.ts'
import { createDownload } from '../../services/registry/download.ts'
import { createLocalFirst } from '../../services/images/local-first.ts'
import { createPuller } from '../../services/images/pull.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { createImageStore, type ImageStore } from '../../services/images/store.ts'
import { createLog } from '../../services/platform/log.ts'
import { NATIVE_DIR } from './container.ts'

/** Path → content of a file; `{ link }` is a symbolic link. */
export type ContextFiles = Readonly<Record<string, string | Uint8Array | { readonly link: string }>>

export interface Built {
  readonly image: BuiltImage
  readonly events: readonly BuildEvent[]
  /** Output of all steps. */
  readonly output: string
  readonly warnings: readonly string[]
  readonly cached: number
  readonly performed: number
}

export interface BuildRig {
  readonly store: ImageStore
  readonly data: string
  build(dockerfile: string, files?: ContextFiles, options?: Partial<BuildRequest>): Promise<Built>
  /** The files of the image by path, without a leading slash. */
  tree(built: Built): Promise<ReadonlyMap<string, ListedEntry>>
  text(built: Built, path: string): Promise<string | undefined>
  /** The image's config document. */
  config(built: Built): Promise<ImageDocument>
  layers(built: Built): readonly string[]
}

export interface ImageDocument {
  readonly created: string
  readonly architecture: string
  readonly config: Readonly<Record<string, unknown>>
  readonly rootfs: { readonly diff_ids: readonly string[] }
  readonly history: ReadonlyArray<{ readonly created_by: string; readonly empty_layer?: boolean }>
}

/** Write FILES into the folder DIR. */
export function writeContext(dir: string, files: ContextFiles): void {
  for (const [path, content] of Object.entries(files)) {
    const target = join(dir, path)
    mkdirSync(dirname(target), { recursive: true, mode: 0o755 })
    if (typeof content === 'object' && 'link' in content) symlinkSync(content.link, target)
    else {
      writeFileSync(target, content)
      chmodSync(target, 0o644) // regardless of the umask
    }
  }
}

export const BASE = 'FROM base\n'

/** A rig that is removed when T ends. */
export async function buildRig(t: Test): Promise<BuildRig> {
  const data = mkdtempSync(join(tmpdir(), 'wherry-test-'))
  chmodSync(data, 0o711)
  const store = createImageStore({ dir: join(data, 'images') })
  const registry = createRegistryClient()
  const puller = createPuller({
    store,
    registry: createLocalFirst({ store, registry, keepPacked: true }),
    nativeDir: NATIVE_DIR,
  })
  t.teardown(async () => {
    await puller.stop()
    await registry.close()
    store.close()
    rmSync(data, { recursive: true, force: true })
  })

  async function build(
    dockerfile: string,
    files: ContextFiles = {},
    options: Partial<BuildRequest> = {},
  ): Promise<Built> {
    const events: BuildEvent[] = []
    const contextDir = mkdtempSync(join(data, 'context-'))
    writeContext(contextDir, { Dockerfile: dockerfile, ...files })
    const request: BuildRequest = {
      contextDir,
      files: readBuildFiles({ contextDir }),
      names: [],
      buildArgs: new Map(),
      labels: new Map(),
      secrets: new Map(),
      network: 'none',
      usesCache: true,
      alwaysPull: false,
      memoryBytes: 256 << 20,
      cpus: 2,
      signal: new AbortController().signal,
      onEvent: (event) => {
        events.push(event)
      },
      ...options,
    }
    try {
      const image = await buildImage(
        {
          store,
          registry,
          puller,
          download: createDownload({}),
          nativeDir: NATIVE_DIR,
          dataDir: data,
          log: createLog({ name: 'test', level: 'silent' }),
        },
        request,
      )
      const done = events.filter((event) => event.kind === 'done')
      return {
        image,
        events,
        output: Buffer.concat(
          events.flatMap((event) => (event.kind === 'output' ? event.bytes : [])),
        ).toString(),
        warnings: events.flatMap((event) => (event.kind === 'warning' ? event.text : [])),
        cached: done.filter((event) => event.isCached).length,
        performed: done.filter((event) => !event.isCached).length,
      }
    } finally {
      rmSync(contextDir, { recursive: true, force: true })
    }
  }

  const layers = ({ image }: Built): readonly string[] =>
    store.catalog.image(image.digest)!.layers.map((layer) => store.layerPath(layer.diffId))
  await build(
    'FROM scratch\nADD base.tar.gz /\nENV PATH=/bin\n',
    { 'base.tar.gz': makeBusyboxLayer() },
    { names: ['docker.io/library/base:latest'] },
  )

  return {
    store,
    data,
    build,
    layers,
    async tree(built) {
      const draft = await store.makeDraft()
      try {
        await prepareDraft(draft)
        const tool = createLayerTool({ nativeDir: NATIVE_DIR, signal: new AbortController().signal })
        const [entries] = await tool.list('contents', draft, layers(built), [''])
        return new Map(entries!.map((entry) => [entry.path, entry]))
      } finally {
        await store.discard(draft)
      }
    },
    text: async (built, path) => await readImageFile({ layers: layers(built) }, path),
    async config({ image }) {
      return JSON.parse((await store.readBlob(image.configDigest))!.toString()) as ImageDocument
    },
  }
}

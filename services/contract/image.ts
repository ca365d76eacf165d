// The OCI image spec's own shapes (github.com/opencontainers/image-spec v1.1), only the fields we read.

export interface Descriptor {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
  readonly platform?: Platform
  readonly annotations?: Readonly<Record<string, string>>
}

export interface Platform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
}

export interface Manifest {
  readonly mediaType: string
  readonly config: Descriptor
  readonly layers: readonly Descriptor[]
}

export interface Index {
  readonly mediaType: string
  readonly manifests: readonly Descriptor[]
}

/** The image config's `config` object with its defaults filled in, plus what unpacking needs. */
export interface ImageConfig {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
  readonly env: readonly string[]
  readonly entrypoint: readonly string[]
  readonly cmd: readonly string[]
  readonly user: string
  readonly workingDir: string
  /** Digests of the uncompressed layers, lowest first. */
  readonly diffIds: readonly string[]
}

/** An image that is ready to run: its layers are directories, lowest first, never written to again. */
export interface Image {
  readonly digest: string
  readonly config: ImageConfig
  readonly layers: readonly string[]
}

/**
 * What becomes of a layer, in this order. 'present': it was there already; nothing follows. 'queued': it will
 * be fetched. 'receiving': its bytes come, and are unpacked on the way. 'unpacking': all have come, files are
 * still being written. 'done': it is there.
 */
export type LayerState = 'present' | 'queued' | 'receiving' | 'unpacking' | 'done'

/** How far the pull of one layer is. */
export interface LayerProgress {
  /** Digest of the packed layer. */
  readonly layer: string
  readonly state: LayerState
  /** Packed bytes that came, of how many. */
  readonly receivedBytes: number
  readonly sizeBytes: number
  /** What they have become so far, counted every few MiB while 'receiving' and 'unpacking'; else 0. */
  readonly unpackedBytes: number
}

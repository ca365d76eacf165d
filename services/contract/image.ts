// Types of the OCI image spec (github.com/opencontainers/image-spec v1.1), only the fields that are read.

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

/** The image config's `config` object with defaults filled in, plus what unpacking needs. */
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

/** An image ready to run: its layers are directories, lowest first, and never written to again. */
export interface Image {
  readonly digest: string
  readonly config: ImageConfig
  readonly layers: readonly string[]
}

/**
 * The states of a layer in order. 'present': already unpacked, the only state. 'queued': waiting to be
 * fetched. 'receiving': bytes arrive and are unpacked as they come. 'unpacking': all bytes arrived, files are
 * still being written. 'done': unpacked.
 */
export type LayerState = 'present' | 'queued' | 'receiving' | 'unpacking' | 'done'

/** The progress of one layer's pull. */
export interface LayerProgress {
  /** Digest of the packed layer. */
  readonly layer: string
  readonly state: LayerState
  /** Packed bytes received, and in total. */
  readonly receivedBytes: number
  readonly sizeBytes: number
  /** Bytes unpacked so far, updated every few MiB while 'receiving' and 'unpacking'; otherwise 0. */
  readonly unpackedBytes: number
}

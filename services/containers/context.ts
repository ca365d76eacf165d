// What the operations of this room share: the records, the native library, and what the owner passes in.

import type { BundleSpec } from '../contract/bundle-spec.ts'
import type { Native } from '../runtime/native.ts'
import type { Records } from './records.ts'

export interface ContainersDeps {
  /** Folder with one folder per container. */
  readonly root: string
  readonly nativeDir: string
  /** Loads the library on the first call: reading a state needs none. */
  readonly native: () => Native
  /** Parses TEXT, the config.json of BUNDLE. Throws InvalidRequest. */
  readonly readConfig: (text: string, bundle: string) => BundleSpec
  /** cgroupsPath has systemd's form, "slice:prefix:name". */
  readonly systemdCgroup: boolean
  /** Environment of hooks that declare none. */
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Receives what the spec wants reported but not treated as a failure. */
  readonly warn: (message: string) => void
}

export interface Context extends ContainersDeps {
  readonly records: Records
}

/** A process of a container that this process has started. The caller closes the descriptors. */
export interface ContainerProcess {
  readonly pid: number
  readonly pidfd: number
  /** Outer end of its terminal; undefined without one, or if it went to a console socket. */
  readonly terminal: number | undefined
}

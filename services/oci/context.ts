// What every command of wherry-oci gets: where containers are kept, the library, the log, and the outside
// world as main.ts hands it in.

import { openNative, type Native } from '../runtime/native.ts'
import { createCommandLog, type CommandLog } from './failure.ts'
import { createStore, type Store } from './store.ts'

/** The process around a command. */
export interface World {
  readonly nativeDir: string
  readonly cwd: string
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Write to stdout, at once: whoever reads it may be gone when this process ends. */
  readonly print: (text: string) => void
  readonly complain: (text: string) => void
  readonly onSignal: (listener: (signal: NodeJS.Signals) => void) => void
}

export interface GlobalFlags {
  readonly root: string
  readonly log: string | undefined
  readonly logFormat: 'text' | 'json'
  /** Cgroups are where systemd would make them. */
  readonly systemdCgroup: boolean
}

export interface Context {
  readonly world: World
  readonly store: Store
  readonly log: CommandLog
  readonly systemdCgroup: boolean
  /** Loaded when first asked for: `state` needs none. */
  native(): Native
}

export function createContext(world: World, flags: GlobalFlags): Context {
  let native: Native | undefined
  return {
    world,
    systemdCgroup: flags.systemdCgroup,
    store: createStore(flags.root),
    log: createCommandLog({ file: flags.log, format: flags.logFormat, stderr: world.complain }),
    native: () => (native ??= openNative(world.nativeDir)),
  }
}

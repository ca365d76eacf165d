// What each command of wherry-oci gets: the containers, the log, and the process around it as main.ts passes
// it in.

import { createContainers, type Containers } from '../containers/containers.ts'
import { openNative, type Native } from '../runtime/native.ts'
import { parseConfig } from './config/config.ts'
import { createCommandLog, type CommandLog } from './failure.ts'

/** The process around a command. */
export interface World {
  readonly nativeDir: string
  readonly cwd: string
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Write to stdout at once: its reader may disappear when this process exits. */
  readonly print: (text: string) => void
  readonly complain: (text: string) => void
  readonly onSignal: (listener: (signal: NodeJS.Signals) => void) => void
}

export interface GlobalFlags {
  readonly root: string
  readonly log: string | undefined
  readonly logFormat: 'text' | 'json'
  /** Cgroup paths have systemd's form. */
  readonly systemdCgroup: boolean
}

export interface Context {
  readonly world: World
  readonly containers: Containers
  readonly log: CommandLog
}

export function createContext(world: World, flags: GlobalFlags): Context {
  let native: Native | undefined
  const log = createCommandLog({ file: flags.log, format: flags.logFormat, stderr: world.complain })
  return {
    world,
    log,
    containers: createContainers({
      root: flags.root,
      nativeDir: world.nativeDir,
      native: () => (native ??= openNative(world.nativeDir)),
      readConfig: (text, bundle) => parseConfig(text, bundle).spec,
      systemdCgroup: flags.systemdCgroup,
      environment: world.environment,
      warn: log.warn,
    }),
  }
}

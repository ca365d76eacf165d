// The door of this room: containers of OCI bundles as a long-running process uses them. Operations return
// values or throw typed errors and never block the event loop. Containers live on disk, not in this object:
// several processes may use one root folder at once, and a restart loses nothing.

import type { BundleResources, BundleSpec } from '../contract/bundle-spec.ts'
import { pidsOf } from '../runtime/cgroup/tree.ts'
import type { ContainerProcess, ContainersDeps, Context } from './context.ts'
import { freezeContainer, killContainer, updateContainer, usageOf, type Usage } from './control.ts'
import { createContainer, type CreateRequest } from './create.ts'
import { execInContainer, type ExecRequest } from './exec.ts'
import { createRecords } from './records.ts'
import { removeContainer } from './remove.ts'
import { startCreated } from './start.ts'
import { reportOf, type StateReport } from './status.ts'
import { waitForProcess } from './wait.ts'

/** OCI runtime spec, runtime.md, Operations, and what engines use beyond it. */
export interface Containers {
  /** Create a container that waits for `start`. After a failure nothing of it is left. */
  create(request: CreateRequest): Promise<ContainerProcess>
  /** Resolves when the container's program runs. */
  start(id: string): Promise<void>
  /** Run another process in the container; resolves when its program runs. */
  exec(id: string, request: ExecRequest): Promise<ContainerProcess>
  /** Resolves with the exit code, 128 + number for a signal. */
  wait(process: ContainerProcess): Promise<number>
  /** Send SIGNAL to a process that `create` or `exec` returned. */
  signal(process: ContainerProcess, signal: number): void
  /** Send SIGNAL to the first process of the container, with ALL to every one. */
  kill(id: string, signal: number, all: boolean): Promise<void>
  /** Delete a stopped container; with FORCE one in any status, and succeed if there is none. */
  remove(id: string, force: boolean): Promise<void>
  pause(id: string): Promise<void>
  resume(id: string): Promise<void>
  update(id: string, resources: BundleResources, checkUsage: boolean): void
  state(id: string): StateReport
  /** All containers by id. ONDAMAGED gets those whose record cannot be read. */
  list(onDamaged: (id: string) => void): StateReport[]
  /** The config.json that the container was created from. */
  config(id: string): BundleSpec
  /** Its processes, numbered as in this pid namespace. */
  pids(id: string): number[]
  usage(id: string): Usage
}

export function createContainers(deps: ContainersDeps): Containers {
  const records = createRecords(deps.root, deps.readConfig)
  const context: Context = { ...deps, records }
  return {
    create: (request) => createContainer(context, request),
    start: (id) => startCreated(context, id),
    exec: (id, request) => execInContainer(context, id, request),
    wait: ({ pidfd }) => waitForProcess(context.native(), pidfd),
    signal({ pidfd }, signal) {
      context.native().kill(pidfd, signal)
    },
    kill: (id, signal, all) => killContainer(context, id, signal, all),
    remove: (id, force) => removeContainer(context, id, force),
    pause: (id) => freezeContainer(context, id, true),
    resume: (id) => freezeContainer(context, id, false),
    update: (id, resources, checkUsage) => updateContainer(context, id, resources, checkUsage),
    state: (id) => reportOf(records, records.load(id)),
    list: (onDamaged) => records.list(onDamaged).map((record) => reportOf(records, record)),
    config: (id) => records.loadConfig(records.load(id)),
    pids: (id) => pidsOf(records.load(id).cgroup),
    usage: (id) => usageOf(context, id),
  }
}

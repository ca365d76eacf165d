// Containers on disk: one folder each below the root folder of all, state.json in it, written whole or not
// at all.  Nothing else remembers a container between two commands.  What its status is, is asked of the
// kernel each time and not believed from the file.

import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { InvalidRequest, type Fault } from '../contract/errors.ts'
import type { BundleSpec, Seccomp } from '../contract/bundle-spec.ts'
import { START_SOCKET } from '../runtime/bundle/bundle.ts'
import { isFrozen, type CgroupTree } from '../runtime/cgroup/tree.ts'
import { startTimeOf } from '../platform/process-identity.ts'
import { parseConfig, SPEC_VERSION } from './config/config.ts'
import { createCursor, type Cursor } from './config/cursor.ts'
import { messageOf, OciError } from './failure.ts'

export type Status = 'creating' | 'created' | 'running' | 'paused' | 'stopped'

/** state.json */
export interface ContainerRecord {
  readonly id: string
  readonly bundle: string
  readonly rootfs: string
  readonly createdAt: string
  readonly annotations: Readonly<Record<string, string>>
  readonly cgroup: CgroupTree
  /** For a container in the runtime's own mount namespace: how many mounts were on its root before. */
  readonly mountsBefore?: number
  /** 0 until the first process is there. */
  readonly pid: number
  /** Tells PID from a later process of the same number. */
  readonly pidStartTime: string
  /** `create` has come to its end. */
  readonly ready: boolean
  /** For messages: the operations that are left when it starts. */
  readonly opNames: readonly string[]
}

/** PID_MAX_LIMIT of the kernel (proc(5), pid_max). */
const PID_MAX = 4_194_304

/** What `state` prints (runtime.md, State), and runc's `list` on top. */
export interface StateReport {
  readonly ociVersion: string
  readonly id: string
  readonly status: Status
  readonly pid: number
  readonly bundle: string
  readonly rootfs: string
  readonly created: string
  readonly annotations: Readonly<Record<string, string>>
}

export interface Store {
  /** Folder of the container ID. */
  directoryOf(id: string): string
  /** Take ID for a new container.  Throws OciError when it is taken, InvalidRequest when it is no name. */
  reserve(id: string): string
  save(record: ContainerRecord): void
  /** Throws OciError when there is none, DamagedRecord when what is there is no record. */
  load(id: string): ContainerRecord
  /** Keep TEXT, the config.json that the container is made from: its bundle may change or go. */
  saveConfig(id: string, text: string): void
  loadConfig(record: Pick<ContainerRecord, 'id' | 'bundle'>): BundleSpec
  /** Is there anything of the container ID? */
  has(id: string): boolean
  /**
   * All that can be read; one that goes meanwhile is not there, ONBROKEN hears of one whose record is
   * damaged.
   */
  list(onBroken: (id: string) => void): ContainerRecord[]
  /** Remove all of it.  True when the record was there: of several that delete a container one is told so. */
  forget(id: string): boolean
}

const ID = /^[\w+.-]{1,1024}$/

/** A container's record is not one, because somebody else wrote to it or the disk lost it. */
export class DamagedRecord extends OciError {
  constructor(id: string, why: string) {
    super(`the record of container "${id}" is damaged (${why}); delete --force removes the container`)
    this.name = 'DamagedRecord'
  }
}

function readCgroup(tree: Cursor): CgroupTree {
  const directories = tree
    .get('directories')
    .needed()
    .list((c) => ({
      controllers: c.get('controllers').list((name) => name.text()),
      mountName: c.get('mountName').text(),
      path: c.get('path').text(),
    }))
  return { version: tree.get('version').whole(1, 2) as 1 | 2, directories }
}

/** state.json as `save` writes it. */
function readRecord(id: string, file: string): ContainerRecord {
  const faults: Fault[] = []
  try {
    const root = createCursor(JSON.parse(readFileSync(file, 'utf8')), '', faults)
    const record: ContainerRecord = {
      id: root.get('id').text(),
      bundle: root.get('bundle').text(),
      rootfs: root.get('rootfs').text(),
      createdAt: root.get('createdAt').text(),
      annotations: root.get('annotations').texts(),
      cgroup: readCgroup(root.get('cgroup')),
      pid: root.get('pid').whole(0, PID_MAX),
      pidStartTime: root.get('pidStartTime').text(),
      ready: root.get('ready').boolean(false),
      opNames: root.get('opNames').list((c) => c.text()),
      ...root.get('mountsBefore').maybe((c) => ({ mountsBefore: c.whole(0, Number.MAX_SAFE_INTEGER) })),
    }
    if (record.id !== id || record.cgroup.directories.length === 0 || faults.length > 0)
      throw new DamagedRecord(
        id,
        faults[0] === undefined ? 'it is another’s' : `${faults[0].path}: ${faults[0].problem}`,
      )
    return record
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT')
      throw new OciError(`container "${id}" does not exist`) // deleted between two lines
    throw err instanceof OciError ? err : new DamagedRecord(id, messageOf(err))
  }
}

function removed(file: string): boolean {
  try {
    unlinkSync(file)
    return true
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw err
  }
}

export function createStore(root: string): Store {
  const directoryOf = (id: string): string => {
    if (!ID.test(id) || id === '.' || id === '..')
      throw new InvalidRequest([
        { path: 'container id', problem: `"${id}" is not made of letters, digits and _ + . -` },
      ])
    return join(root, id)
  }
  const fileOf = (id: string): string => join(directoryOf(id), 'state.json')

  /** FILE of the container ID; it may be deleted by another command at any moment. */
  function textOf(id: string, file: string): string {
    try {
      return readFileSync(join(directoryOf(id), file), 'utf8')
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === 'ENOENT')
        throw new OciError(`container "${id}" does not exist`)
      throw err
    }
  }

  const store: Store = {
    directoryOf,
    reserve(id) {
      const directory = directoryOf(id)
      if (!existsSync(root)) {
        mkdirSync(root, { recursive: true, mode: 0o700 })
        chmodSync(root, 0o700)
      }
      try {
        mkdirSync(directory, { mode: 0o711 })
      } catch (err) {
        if ((err as NodeJS.ErrnoException).code === 'EEXIST')
          throw new OciError(`container with id "${id}" exists already`)
        throw err
      }
      return directory
    },
    save(record) {
      const file = fileOf(record.id)
      writeFileSync(`${file}.new`, JSON.stringify(record), { mode: 0o600 })
      renameSync(`${file}.new`, file)
    },
    load(id) {
      const file = fileOf(id)
      if (!existsSync(file)) throw new OciError(`container "${id}" does not exist`)
      return readRecord(id, file)
    },
    list(onBroken) {
      if (!existsSync(root)) return []
      return readdirSync(root)
        .filter((id) => ID.test(id) && existsSync(join(root, id, 'state.json')))
        .sort()
        .flatMap((id) => {
          try {
            return [store.load(id)]
          } catch (err) {
            if (err instanceof DamagedRecord) onBroken(id)
            else if (!(err instanceof OciError)) throw err
            return []
          }
        })
    },
    saveConfig(id, text) {
      writeFileSync(join(directoryOf(id), 'config.json'), text, { mode: 0o600 })
    },
    loadConfig: (record) => parseConfig(textOf(record.id, 'config.json'), record.bundle).spec,
    has: (id) => existsSync(directoryOf(id)),
    forget(id) {
      const wasThere = removed(fileOf(id))
      rmSync(directoryOf(id), { recursive: true, force: true })
      return wasThere
    },
  }
  return store
}

/** Is the container's first process there?  A zombie is not. */
export const isAlive = (record: ContainerRecord): boolean =>
  record.pid > 0 && startTimeOf(record.pid) === record.pidStartTime

export function statusOf(store: Store, record: ContainerRecord): Status {
  if (!isAlive(record)) return record.pid === 0 ? 'creating' : 'stopped'
  if (!record.ready) return 'creating'
  if (isFrozen(record.cgroup)) return 'paused'
  return existsSync(join(store.directoryOf(record.id), START_SOCKET)) ? 'created' : 'running'
}

/** RECORD as `state` prints it; a STATUS that is given holds (hooks are told what they interrupt). */
export function reportOf(
  store: Store,
  record: ContainerRecord,
  status: Status = statusOf(store, record),
): StateReport {
  const { id, bundle, rootfs, createdAt, annotations } = record
  return {
    ociVersion: SPEC_VERSION,
    id,
    status,
    pid: status === 'stopped' ? 0 : record.pid,
    bundle,
    rootfs,
    created: createdAt,
    annotations,
  }
}

/**
 * What the seccomp agent is told of the process PID together with its listener (config-linux.md, The
 * Container Process State).
 */
export function agentStateOf(state: StateReport, pid: number, seccomp: Seccomp | undefined): string {
  return JSON.stringify({
    ociVersion: SPEC_VERSION,
    fds: ['seccompFd'],
    pid,
    metadata: seccomp?.listener?.metadata ?? '',
    state,
  })
}

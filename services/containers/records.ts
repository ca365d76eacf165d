// Containers on disk: one folder per container below one root folder, with the record in state.json and a
// copy of config.json. These files are the only memory of a container between two operations, of this process
// or another. state.json is always complete; the status is not in it, because only the kernel knows it.

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
import type { BundleSpec } from '../contract/bundle-spec.ts'
import { createCursor, type Cursor } from '../contract/cursor.ts'
import { defined } from '../contract/defined.ts'
import type { CgroupTree } from '../runtime/cgroup/tree.ts'
import { ContainerError, DamagedRecord, notFound } from './errors.ts'

/** The content of state.json. */
export interface ContainerRecord {
  readonly id: string
  readonly bundle: string
  readonly rootfs: string
  readonly createdAt: string
  readonly annotations: Readonly<Record<string, string>>
  readonly cgroup: CgroupTree
  /** Only without a mount namespace: the number of mounts on its root before it was created. */
  readonly mountsBefore?: number
  /** 0 until its first process exists. */
  readonly pid: number
  /** Distinguishes the process from a later one with the same PID. */
  readonly pidStartTime: string
  /** `create` has completed. */
  readonly ready: boolean
  /** Names of the plan's operations, for messages about a failed start. */
  readonly opNames: readonly string[]
}

/** PID_MAX_LIMIT of the kernel (proc(5), pid_max). */
const PID_MAX = 4_194_304

export interface Records {
  /** Folder of the container ID. Throws InvalidRequest if ID is not a valid name. */
  directoryOf(id: string): string
  /** Create the folder of a new container. Throws ContainerError if ID exists, InvalidRequest as above. */
  reserve(id: string): string
  save(record: ContainerRecord): void
  /** Throws ContainerError if there is none, DamagedRecord if the file does not contain a record. */
  load(id: string): ContainerRecord
  /** Keep TEXT, the config.json that the container is created from: the bundle may change or disappear. */
  saveConfig(id: string, text: string): void
  loadConfig(record: Pick<ContainerRecord, 'id' | 'bundle'>): BundleSpec
  /** Whether the container ID has a folder, with or without a record. */
  has(id: string): boolean
  /** All readable records, by id. Skips those that are deleted meanwhile; ONDAMAGED gets the damaged ones. */
  list(onDamaged: (id: string) => void): ContainerRecord[]
  /** Remove the folder. True if the record existed: one of several concurrent calls gets it. */
  forget(id: string): boolean
}

const ID = /^[\w+.-]{1,1024}$/

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

const oneLine = (err: unknown): string =>
  (err instanceof Error ? err.message : String(err)).replaceAll(/\s*[\r\n]+\s*/g, ' ').trim()

/** The record in FILE, which `save` wrote. */
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
      ...defined({
        mountsBefore: root.get('mountsBefore').maybe((c) => c.whole(0, Number.MAX_SAFE_INTEGER)),
      }),
    }
    if (record.id !== id || record.cgroup.directories.length === 0 || faults.length > 0)
      throw new DamagedRecord(
        id,
        faults[0] === undefined
          ? 'it belongs to another container'
          : `${faults[0].path}: ${faults[0].problem}`,
      )
    return record
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code === 'ENOENT') throw notFound(id) // deleted just now
    throw err instanceof ContainerError ? err : new DamagedRecord(id, oneLine(err))
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

/** The containers below ROOT. READCONFIG parses their copies of config.json. */
export function createRecords(
  root: string,
  readConfig: (text: string, bundle: string) => BundleSpec,
): Records {
  const directoryOf = (id: string): string => {
    if (!ID.test(id) || id === '.' || id === '..')
      throw new InvalidRequest([
        { path: 'container id', problem: `"${id}" may only contain letters, digits and _ + . -` },
      ])
    return join(root, id)
  }
  const fileOf = (id: string): string => join(directoryOf(id), 'state.json')

  /** Content of FILE of the container ID, which another process may delete at any moment. */
  function textOf(id: string, file: string): string {
    try {
      return readFileSync(join(directoryOf(id), file), 'utf8')
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === 'ENOENT') throw notFound(id)
      throw err
    }
  }

  const records: Records = {
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
          throw new ContainerError('exists', `container with id "${id}" exists already`)
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
      if (!existsSync(file)) throw notFound(id)
      return readRecord(id, file)
    },
    list(onDamaged) {
      if (!existsSync(root)) return []
      return readdirSync(root)
        .filter((id) => ID.test(id) && existsSync(join(root, id, 'state.json')))
        .sort()
        .flatMap((id) => {
          try {
            return [records.load(id)]
          } catch (err) {
            if (err instanceof DamagedRecord) onDamaged(id)
            else if (!(err instanceof ContainerError)) throw err
            return []
          }
        })
    },
    saveConfig(id, text) {
      writeFileSync(join(directoryOf(id), 'config.json'), text, { mode: 0o600 })
    },
    loadConfig: (record) => readConfig(textOf(record.id, 'config.json'), record.bundle),
    has: (id) => existsSync(directoryOf(id)),
    forget(id) {
      const wasThere = removed(fileOf(id))
      rmSync(directoryOf(id), { recursive: true, force: true })
      return wasThere
    },
  }
  return records
}

// Parses config.json of a bundle (OCI runtime spec, config.md) into a BundleSpec. All faults are reported at
// once, each with the path of its field. Unknown fields are ignored, as the spec requires. A field of the
// spec that this runtime does not support is a fault: without it the container would differ from what was
// requested.

import { isAbsolute, join } from 'node:path'
import { defined } from '../../contract/defined.ts'
import { InvalidRequest, type Fault } from '../../contract/errors.ts'
import {
  HOOK_NAMES,
  SPEC_VERSION,
  type BundleProcess,
  type BundleSpec,
  type Hook,
  type Hooks,
  type IdMapping,
} from '../../contract/bundle-spec.ts'
import { makesMounts } from '../../runtime/bundle/mounts.ts'
import { readLinux } from './linux.ts'
import { checkMounts, MOUNTS_MAX, readMount } from './mounts.ts'
import { readProcess } from './process.ts'
import { createCursor, parseDocument, type Cursor } from '../../contract/cursor.ts'

/**
 * Minor versions keep the meaning of known fields (semver.org, 7). Engines write the version they were built
 * with.
 */
const VERSIONS = /^1\.(\d{1,4})\.\d{1,4}(?:[-+][0-9A-Za-z.+-]{1,64})?$/
const MINOR_KNOWN = 3
const MINOR_POSTSTART_STOPS = 3
const TIMEOUT_MAX_S = 86_400
const HOOKS_MAX = 64
/** WY_LIST_MAX of the plan. */
const TEXTS_MAX = 4096

export interface ParsedConfig {
  readonly spec: BundleSpec
  /** What was left out of the spec where the OCI spec requires a warning. */
  readonly warnings: readonly string[]
}

function readHook(hook: Cursor): Hook {
  const path = hook.get('path').text()
  if (!isAbsolute(path)) hook.get('path').fault(`"${path}" is not an absolute path`)
  const args = hook.get('args').list((c) => c.text(), TEXTS_MAX)
  const timeout = hook.get('timeout').maybe((c) => c.whole(1, TIMEOUT_MAX_S)) ?? 0
  return {
    path,
    args: args.length > 0 ? args : [path],
    env: hook.get('env').maybe((c) => c.list((entry) => entry.text(), TEXTS_MAX)),
    timeoutMs: timeout * 1000,
  }
}

function readHooks(hooks: Cursor): Hooks {
  return Object.fromEntries(
    HOOK_NAMES.map((name) => [name, hooks.get(name).list(readHook, HOOKS_MAX)]),
  ) as Record<(typeof HOOK_NAMES)[number], Hook[]>
}

/** Parse TEXT as JSON. PATH is the path of the fault. */
export function readDocument(text: string, path: string): unknown {
  try {
    return parseDocument(text)
  } catch (err) {
    throw new InvalidRequest([
      { path, problem: `is not JSON: ${err instanceof Error ? err.message : String(err)}` },
    ])
  }
}

/** Parse TEXT, the config.json of BUNDLE (absolute). Throws InvalidRequest with all faults. */
export function parseConfig(text: string, bundle: string): ParsedConfig {
  const faults: Fault[] = []
  const warnings: string[] = []
  const root = createCursor(readDocument(text, 'config.json'), '', faults)
  const version = root.get('ociVersion').text()
  const minor = VERSIONS.exec(version)?.[1]
  if (version !== '' && minor === undefined)
    root.get('ociVersion').fault(`"${version}" is not a supported version (1.x.x)`)
  if (Number(minor ?? 0) > MINOR_KNOWN)
    warnings.push(`ociVersion: ${version} is later than ${SPEC_VERSION}; its new fields are ignored`)
  for (const platform of ['windows', 'vm', 'solaris', 'zos', 'freebsd'])
    root.get(platform).refused('is not for Linux containers')
  const rootPath = root.get('root').get('path').text()
  const hostname = root.get('hostname').maybe((c) => c.text()) || undefined
  const domainname = root.get('domainname').maybe((c) => c.text()) || undefined
  const spec: BundleSpec = {
    process: readProcess(root.get('process'), warnings),
    root: {
      path: isAbsolute(rootPath) ? rootPath : join(bundle, rootPath),
      readonly: root.get('root').get('readonly').boolean(false),
    },
    mounts: root.get('mounts').list((c) => readMount(c, bundle), MOUNTS_MAX),
    linux: readLinux(root.get('linux'), warnings),
    hooks: readHooks(root.get('hooks')),
    poststartStops: Number(minor ?? 0) >= MINOR_POSTSTART_STOPS,
    annotations: root.get('annotations').texts(),
    ...defined({ hostname, domainname }),
  }
  checkTogether(spec, root)
  checkMounts(spec, root.get('mounts'))
  if (faults.length > 0) throw new InvalidRequest(faults)
  return { spec, warnings }
}

/** In a new user namespace, the ids of the process must be mapped. */
function checkIds({ process: { user }, linux }: BundleSpec, root: Cursor): void {
  if (!linux.namespaces.some(({ type, path }) => type === 'user' && path === undefined)) return
  const field = root.get('process').get('user')
  const check = (id: number, mappings: readonly IdMapping[], at: Cursor, name: string): void => {
    if (!mappings.some(({ containerID, size }) => id >= containerID && id < containerID + size))
      at.fault(`${id} is in none of linux.${name}`)
  }
  check(user.uid, linux.uidMappings, field.get('uid'), 'uidMappings')
  check(user.gid, linux.gidMappings, field.get('gid'), 'gidMappings')
  for (const gid of user.additionalGids)
    check(gid, linux.gidMappings, field.get('additionalGids'), 'gidMappings')
}

/** Fields that are valid separately and invalid together. */
function checkTogether(spec: BundleSpec, root: Cursor): void {
  const makesUts = spec.linux.namespaces.some((namespace) => namespace.type === 'uts')
  for (const name of ['hostname', 'domainname'] as const) {
    if (spec[name] !== undefined && !makesUts)
      root.get(name).fault('needs a uts namespace; without one it would rename the host')
  }
  checkIds(spec, root)
  if (!makesMounts(spec) && spec.linux.namespaces.some(({ type }) => type === 'user'))
    root
      .get('linux')
      .get('namespaces')
      .fault('has a user namespace but no mount namespace; nothing could be mounted')
}

/** Parse TEXT, a process of `exec --process FILE`. Throws InvalidRequest with all faults. */
export function parseProcess(text: string): { process: BundleProcess; warnings: readonly string[] } {
  const faults: Fault[] = []
  const warnings: string[] = []
  const process = readProcess(createCursor(readDocument(text, 'process'), 'process', faults), warnings)
  if (faults.length > 0) throw new InvalidRequest(faults)
  return { process, warnings }
}

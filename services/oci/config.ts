// config.json of a bundle (OCI runtime spec, config.md) as a BundleSpec.  Every wrong field is named, all
// at once, in the document's own words; fields that the spec does not know are ignored, as it asks; what
// it knows and this runtime cannot do is a fault, because a container without it would not be as asked.

import { isAbsolute, join, normalize } from 'node:path'
import { InvalidRequest, type Fault } from '../contract/errors.ts'
import { HOOK_NAMES, type BundleMount, type BundleProcess, type BundleRlimit, type BundleSpec, type Hook, type Hooks } from '../contract/bundle-spec.ts'
import type { Capabilities, User } from '../contract/runtime-spec.ts'
import { isCapability } from '../runtime/capability.ts'
import { UNSUPPORTED_OPTIONS } from '../runtime/mount-options.ts'
import { RLIMIT } from '../runtime/ops.ts'
import { readLinux } from './config-linux.ts'
import { createCursor, parseDocument, type Cursor } from './cursor.ts'

export const SPEC_VERSION = '1.3.0'
/** Later ones of the same major version keep the meaning of what is known here (semver.org, 7); engines write the one that they were built with. */
const VERSIONS = /^1\.(\d{1,4})\.\d{1,4}(?:[-+][0-9A-Za-z.+-]{1,64})?$/
const MINOR_KNOWN = 3
const ID_MAX = 4_294_967_294
const TIMEOUT_MAX_S = 86_400
/** Files that may be mounted over inside /proc; any other could lead the runtime itself astray (CVE-2019-16884). */
const PROC_FILES = /^\/proc\/(?:cpuinfo|diskstats|meminfo|stat|swaps|uptime|loadavg|slabinfo|sys\/kernel\/ns_last_pid|sys\/crypto\/fips_enabled|net\/dev)$/

export interface ParsedConfig {
  readonly spec: BundleSpec
  /** What was left out although it was asked for, because the OCI spec says "warn". */
  readonly warnings: readonly string[]
}

function readUser (user: Cursor): User & { umask: number | undefined } {
  if (user.get('username').exists) user.get('username').fault('is for Windows')
  return {
    uid: user.get('uid').maybe(c => c.whole(0, ID_MAX)) ?? 0,
    gid: user.get('gid').maybe(c => c.whole(0, ID_MAX)) ?? 0,
    additionalGids: user.get('additionalGids').list(c => c.whole(0, ID_MAX)),
    umask: user.get('umask').maybe(c => c.whole(0, 0o777)),
  }
}

/** "Any value which cannot be mapped … MUST be logged as a warning" (config.md, Linux Process). */
function readCapabilities (sets: Cursor, warnings: string[]): Capabilities {
  const read = (name: string): string[] => sets.get(name).list(c => c.text()).filter(capability => {
    if (!isCapability(capability)) warnings.push(`${sets.path}.${name}: "${capability}" is not a capability of this kernel; it is left out`)
    return isCapability(capability)
  })
  return { bounding: read('bounding'), permitted: read('permitted'), inheritable: read('inheritable'), effective: read('effective'), ambient: read('ambient') }
}

function readRlimits (list: Cursor): BundleRlimit[] {
  const seen = new Set<string>()
  return list.list(c => {
    const type = c.get('type').text()
    if (!Object.hasOwn(RLIMIT, type)) c.get('type').fault(`"${type}" is not a resource limit`)
    if (seen.has(type)) c.get('type').fault(`"${type}" is there twice`)
    seen.add(type)
    const limit = { type, soft: c.get('soft').whole64(), hard: c.get('hard').whole64() }
    if (limit.soft > limit.hard) c.get('soft').fault(`${limit.soft} is above the hard limit ${limit.hard}`)
    return limit
  })
}

function readEnv (list: Cursor): string[] {
  return list.list(c => {
    const entry = c.text()
    if (!/^[^=]+=/.test(entry)) c.fault(`"${entry.slice(0, 40)}" is not NAME=value`)
    return entry
  })
}

/** A process, of config.json or of `exec --process`. */
export function readProcess (process: Cursor, warnings: string[]): BundleProcess {
  const { umask, ...user } = readUser(process.get('user'))
  const args = process.get('args').needed().list(c => c.text())
  if (process.get('args').exists && args.length === 0) process.get('args').fault('is empty; there is nothing to run')
  const cwd = process.get('cwd').text()
  if (!isAbsolute(cwd)) process.get('cwd').fault(`"${cwd}" is not an absolute path`)
  for (const name of ['selinuxLabel', 'scheduler', 'ioPriority', 'execCPUAffinity']) {
    const field = process.get(name)
    if (field.exists && !(name === 'selinuxLabel' && field.text() === '')) field.fault('is not supported by this runtime')
  }
  const consoleSize = process.get('consoleSize').maybe(c => ({ height: c.get('height').whole(0, 65_535), width: c.get('width').whole(0, 65_535) }))
  const oomScoreAdj = process.get('oomScoreAdj').maybe(c => c.whole(-1000, 1000))
  const apparmorProfile = process.get('apparmorProfile').maybe(c => c.text()) || undefined
  return {
    args,
    env: readEnv(process.get('env')),
    cwd,
    user,
    capabilities: readCapabilities(process.get('capabilities'), warnings),
    rlimits: readRlimits(process.get('rlimits')),
    noNewPrivileges: process.get('noNewPrivileges').boolean(false),
    terminal: process.get('terminal').boolean(false),
    ...(umask !== undefined && { umask }),
    ...(consoleSize && { consoleSize }),
    ...(oomScoreAdj !== undefined && { oomScoreAdj }),
    ...(apparmorProfile !== undefined && { apparmorProfile }),
  }
}

function readMount (mount: Cursor, bundle: string): BundleMount {
  const written = mount.get('destination').text()
  const options = mount.get('options').list(c => c.text())
  const isBind = options.includes('bind') || options.includes('rbind') || mount.get('type').maybe(c => c.text()) === 'bind'
  const type = isBind ? 'bind' : mount.get('type').needed().text()
  const source = mount.get('source').maybe(c => c.text()) ?? ''
  // The spec once allowed relative destinations, which engines still write; they begin at the root.
  const destination = normalize(join('/', written)).replace(/(?<=.)\/$/, '')
  if (destination === '/') mount.get('destination').fault('is the root itself')
  if (destination.startsWith('/proc/') && !PROC_FILES.test(destination)) mount.get('destination').fault(`"${written}" is inside /proc, where nothing but some files may be mounted over`)
  if (destination === '/proc' && type !== 'proc') mount.get('destination').fault(`"${type}" may not be mounted over /proc`)
  if (isBind && source === '') mount.get('source').fault('is missing; a bind mount needs it')
  for (const [i, option] of options.entries()) if (UNSUPPORTED_OPTIONS.has(option)) mount.fault(`options[${i}]: "${option}" is not supported by this runtime`)
  for (const name of ['uidMappings', 'gidMappings']) if (mount.get(name).exists) mount.get(name).fault('is not supported by this runtime')
  // An option with a comma or a newline would become two in the kernel.
  for (const [i, option] of options.entries()) if (type !== 'overlay' && /[,\n]/.test(option) && !option.startsWith('context=')) mount.fault(`options[${i}]: "${option}" contains a comma; write one option per entry`)
  return { destination, type, source: isBind && source !== '' && !isAbsolute(source) ? join(bundle, source) : source, options }
}

function readHook (hook: Cursor): Hook {
  const path = hook.get('path').text()
  if (!isAbsolute(path)) hook.get('path').fault(`"${path}" is not an absolute path`)
  const args = hook.get('args').list(c => c.text())
  const timeout = hook.get('timeout').maybe(c => c.whole(1, TIMEOUT_MAX_S)) ?? 0
  return { path, args: args.length > 0 ? args : [path], env: hook.get('env').list(c => c.text()), timeoutMs: timeout * 1000 }
}

function readHooks (hooks: Cursor): Hooks {
  return Object.fromEntries(HOOK_NAMES.map(name => [name, hooks.get(name).list(readHook)])) as Record<typeof HOOK_NAMES[number], Hook[]>
}

/** TEXT as JSON; PATH is what the fault is said of. */
function readDocument (text: string, path: string): unknown {
  try {
    return parseDocument(text)
  } catch (err) {
    throw new InvalidRequest([{ path, problem: `is not JSON: ${err instanceof Error ? err.message : String(err)}` }])
  }
}

/** TEXT, the config.json of BUNDLE (absolute), as a spec.  Throws InvalidRequest with every fault. */
export function parseConfig (text: string, bundle: string): ParsedConfig {
  const faults: Fault[] = []
  const warnings: string[] = []
  const root = createCursor(readDocument(text, 'config.json'), '', faults)
  const version = root.get('ociVersion').text()
  const minor = VERSIONS.exec(version)?.[1]
  if (version !== '' && minor === undefined) root.get('ociVersion').fault(`"${version}" is not a version that this runtime knows (1.x.x)`)
  if (Number(minor ?? 0) > MINOR_KNOWN) warnings.push(`ociVersion: ${version} is later than ${SPEC_VERSION}; fields that are new in it are ignored`)
  for (const platform of ['windows', 'vm', 'solaris', 'zos']) if (root.get(platform).exists) root.get(platform).fault('is not for Linux containers')
  const rootPath = root.get('root').get('path').text()
  const hostname = root.get('hostname').maybe(c => c.text()) || undefined
  const domainname = root.get('domainname').maybe(c => c.text()) || undefined
  const spec: BundleSpec = {
    process: readProcess(root.get('process'), warnings),
    root: { path: isAbsolute(rootPath) ? rootPath : join(bundle, rootPath), readonly: root.get('root').get('readonly').boolean(false) },
    mounts: root.get('mounts').list(c => readMount(c, bundle)),
    linux: readLinux(root.get('linux')),
    hooks: readHooks(root.get('hooks')),
    annotations: root.get('annotations').texts(),
    ...(hostname !== undefined && { hostname }),
    ...(domainname !== undefined && { domainname }),
  }
  checkTogether(spec, root)
  if (faults.length > 0) throw new InvalidRequest(faults)
  return { spec, warnings }
}

/** What is right by itself and wrong together. */
function checkTogether (spec: BundleSpec, root: Cursor): void {
  const makesUts = spec.linux.namespaces.some(namespace => namespace.type === 'uts')
  for (const name of ['hostname', 'domainname'] as const) {
    if (spec[name] !== undefined && !makesUts) root.get(name).fault('needs a uts namespace of its own; without one it would rename the host')
  }
}

/** TEXT, a process of its own (`exec --process FILE`).  Throws InvalidRequest with every fault. */
export function parseProcess (text: string): { process: BundleProcess, warnings: readonly string[] } {
  const faults: Fault[] = []
  const warnings: string[] = []
  const process = readProcess(createCursor(readDocument(text, 'process'), 'process', faults), warnings)
  if (faults.length > 0) throw new InvalidRequest(faults)
  return { process, warnings }
}

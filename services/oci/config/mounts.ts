// `mounts` of config.json (OCI runtime spec, config.md, Mounts).

import { isAbsolute, join, normalize } from 'node:path'
import type { BundleMount, BundleSpec } from '../../contract/bundle-spec.ts'
import { makesMounts, needsStage } from '../../runtime/bundle/mounts.ts'
import { IDMAP_OPTIONS } from '../../runtime/bundle/mount-options.ts'
import { readMappings } from './linux.ts'
import type { Cursor } from '../../contract/cursor.ts'

/** Mounts, masked paths and devices have to fit into one plan (WY_SLOTS_MAX). */
export const MOUNTS_MAX = 512
/** The kernel takes a page of them (mount(2)). */
const OPTIONS_MAX = 256
/**
 * Files that may be mounted over inside /proc; any other could lead the runtime itself astray
 * (CVE-2019-16884).
 */
const PROC_FILES =
  /^\/proc\/(?:cpuinfo|diskstats|meminfo|stat|swaps|uptime|loadavg|slabinfo|sys\/kernel\/ns_last_pid|sys\/crypto\/fips_enabled|net\/dev)$/

/** Ids of files may be seen through a map of the mount's own, or through the container's. */
function readIdmap(mount: Cursor, options: readonly string[], isBind: boolean): BundleMount['idmap'] {
  const uidMappings = readMappings(mount.get('uidMappings'))
  const gidMappings = readMappings(mount.get('gidMappings'))
  const asked = IDMAP_OPTIONS.some((word) => options.includes(word))
  if (!asked && uidMappings.length === 0 && gidMappings.length === 0) return undefined
  if (!isBind) mount.fault('ids can be mapped on bind mounts only')
  if ((uidMappings.length === 0) !== (gidMappings.length === 0))
    mount
      .get(uidMappings.length === 0 ? 'uidMappings' : 'gidMappings')
      .fault('is missing; ids of users and of groups are mapped together')
  return { recursive: options.includes('ridmap'), uidMappings, gidMappings }
}

/** One entry; a relative source begins at BUNDLE. */
export function readMount(mount: Cursor, bundle: string): BundleMount {
  const written = mount.get('destination').text()
  const options = mount.get('options').list((c) => c.text(), OPTIONS_MAX)
  const said = mount.get('type').maybe((c) => c.text())
  const isBind = options.includes('bind') || options.includes('rbind') || said === 'bind'
  const type = isBind ? 'bind' : mount.get('type').needed().text()
  const source = mount.get('source').maybe((c) => c.text()) ?? ''
  // The spec once allowed relative destinations, which engines still write; they begin at the root.
  const destination = normalize(join('/', written)).replace(/(?<=.)\/$/, '')
  if (destination === '/') mount.get('destination').fault('is the root itself')
  if (destination.startsWith('/proc/') && !PROC_FILES.test(destination))
    mount
      .get('destination')
      .fault(`"${written}" is inside /proc, where nothing but some files may be mounted over`)
  if (destination === '/proc' && type !== 'proc')
    mount.get('destination').fault(`"${type}" may not be mounted over /proc`)
  if (isBind && source === '') mount.get('source').fault('is missing; a bind mount needs it')
  const idmap = readIdmap(mount, options, isBind)
  // An option with a comma or a newline would become two in the kernel.
  for (const [i, option] of options.entries())
    if (type !== 'overlay' && /[,\n]/.test(option) && !option.startsWith('context='))
      mount.fault(`options[${i}]: "${option}" contains a comma; write one option per entry`)
  return {
    destination,
    type,
    source: isBind && source !== '' && !isAbsolute(source) ? join(bundle, source) : source,
    options,
    ...(idmap && { idmap }),
  }
}

/** What depends on the namespaces of SPEC. */
export function checkMounts(spec: BundleSpec, mounts: Cursor): void {
  const newUser = spec.linux.namespaces.some(({ type, path }) => type === 'user' && path === undefined)
  mounts
    .list((c) => c, MOUNTS_MAX)
    .forEach((field, i) => {
      const mount = spec.mounts[i]!
      if (mount.idmap?.uidMappings.length === 0 && !newUser)
        field.fault('has no uidMappings, and there is no new user namespace whose mappings could serve')
      if (!makesMounts(spec) && needsStage(mount))
        field.get('type').fault(`"${mount.type}" needs a new mount namespace`)
    })
}

// `mounts` of config.json (OCI runtime spec, config.md, Mounts).

import { isAbsolute, join, normalize } from 'node:path'
import type { BundleMount, BundleSpec } from '../../contract/bundle-spec.ts'
import { makesMounts, needsStage } from '../../runtime/bundle/mounts.ts'
import { IDMAP_OPTIONS } from '../../runtime/bundle/mount-options.ts'
import type { Cursor } from '../../contract/cursor.ts'
import { defined } from '../../contract/defined.ts'
import { readMappings } from './linux.ts'

/** Mounts, masked paths and devices must fit in one plan (WY_SLOTS_MAX). */
export const MOUNTS_MAX = 512
/** The kernel accepts one page of options (mount(2)). */
const OPTIONS_MAX = 256
/** Files in /proc that may be mounted over. Others could mislead the runtime itself (CVE-2019-16884). */
const PROC_FILES =
  /^\/proc\/(?:cpuinfo|diskstats|meminfo|stat|swaps|uptime|loadavg|slabinfo|sys\/kernel\/ns_last_pid|sys\/crypto\/fips_enabled|net\/dev)$/

/** The id map of a mount: its own mappings, or those of the container. */
function readIdmap(mount: Cursor, options: readonly string[], isBind: boolean): BundleMount['idmap'] {
  const uidMappings = readMappings(mount.get('uidMappings'))
  const gidMappings = readMappings(mount.get('gidMappings'))
  const asked = IDMAP_OPTIONS.some((word) => options.includes(word))
  if (!asked && uidMappings.length === 0 && gidMappings.length === 0) return undefined
  if (!isBind) mount.fault('only bind mounts can map ids')
  if ((uidMappings.length === 0) !== (gidMappings.length === 0))
    mount
      .get(uidMappings.length === 0 ? 'uidMappings' : 'gidMappings')
      .fault('is missing; users and groups are mapped together')
  return { recursive: options.includes('ridmap'), uidMappings, gidMappings }
}

/** One entry. A relative source is resolved against BUNDLE. */
export function readMount(mount: Cursor, bundle: string): BundleMount {
  const written = mount.get('destination').text()
  const options = mount.get('options').list((c) => c.text(), OPTIONS_MAX)
  const said = mount.get('type').maybe((c) => c.text())
  const isBind = options.includes('bind') || options.includes('rbind') || said === 'bind'
  const type = isBind ? 'bind' : mount.get('type').needed().text()
  const source = mount.get('source').maybe((c) => c.text()) ?? ''
  // The spec once allowed relative destinations, and engines still write them. They start at the root.
  const destination = normalize(join('/', written)).replace(/(?<=.)\/$/, '')
  if (destination === '/') mount.get('destination').fault('is the root itself')
  if (destination.startsWith('/proc/') && !PROC_FILES.test(destination))
    mount.get('destination').fault(`"${written}" is in /proc, where only a few files may be mounted over`)
  if (destination === '/proc' && type !== 'proc')
    mount.get('destination').fault(`"${type}" may not be mounted over /proc`)
  if (isBind && source === '') mount.get('source').fault('is missing; a bind mount needs it')
  const idmap = readIdmap(mount, options, isBind)
  // The kernel would read an option with a comma or newline as two.
  for (const [i, option] of options.entries())
    if (type !== 'overlay' && /[,\n]/.test(option) && !option.startsWith('context='))
      mount.fault(`options[${i}]: "${option}" contains a comma; write one option per entry`)
  return {
    destination,
    type,
    source: isBind && source !== '' && !isAbsolute(source) ? join(bundle, source) : source,
    options,
    ...defined({ idmap }),
  }
}

/** Checks that depend on the namespaces of SPEC. */
export function checkMounts(spec: BundleSpec, mounts: Cursor): void {
  const newUser = spec.linux.namespaces.some(({ type, path }) => type === 'user' && path === undefined)
  mounts
    .list((c) => c, MOUNTS_MAX)
    .forEach((field, i) => {
      const mount = spec.mounts[i]!
      if (mount.idmap?.uidMappings.length === 0 && !newUser)
        field.fault('has no uidMappings, and there is no new user namespace to take them from')
      if (!makesMounts(spec) && needsStage(mount))
        field.get('type').fault(`"${mount.type}" needs a new mount namespace`)
    })
}

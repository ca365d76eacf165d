// Finds the cgroups of this host and picks one of the two drivers at start. Each container gets a directory
// below one directory per worker process ("instance"), which separates what a dead worker left from what a
// living one uses. A missing controller is an error that names it: a limit is never silently missing
// (cgroups(7), cgroup-v2.rst).

import { readFileSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { Unsupported } from '../../contract/errors.ts'
import {
  OPTIONAL_CONTROLLERS,
  V1_CONTROLLERS,
  V2_CONTROLLERS,
  type Announce,
  type CgroupDriver,
  type HostCgroups,
} from './driver.ts'
import { createV1Driver } from './v1.ts'
import { createV2Driver, offerControllers } from './v2.ts'
import { LEAF, parseMounts, parseOwnCgroups } from './host.ts'
import type { Native } from '../native.ts'

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

const controllersOf = (directory: string): string[] =>
  readOrEmpty(`${directory}/cgroup.controllers`).split(/\s+/).filter(Boolean)

function findV2(top: string | undefined, own: string | undefined, mayOffer: boolean): HostCgroups['v2'] {
  if (top === undefined || own === undefined) return undefined
  const directory = basename(own) === LEAF ? dirname(own) : own
  if (mayOffer) offerControllers(top, directory)
  return {
    directory,
    controllers: mayOffer
      ? controllersOf(directory)
      : [...new Set([...controllersOf(directory), ...controllersOf(top)])],
  }
}

/** Where our own cgroups are.  The paths differ per hierarchy (cgroups(7), /proc/[pid]/cgroup).  On v2 the
 * cgroups above ours may have controllers that they do not hand down: with MAYOFFER they are made to, which
 * changes the host; without it nothing is changed, and what they could hand down counts as there. */
export function findHostCgroups({ mayOffer }: { mayOffer: boolean }): HostCgroups {
  const own = parseOwnCgroups(readFileSync('/proc/self/cgroup', 'utf8'))
  const mounts = parseMounts(readFileSync('/proc/self/mountinfo', 'utf8'))
  const v1 = new Map<string, string>()
  for (const mount of mounts.v1) {
    for (const controller of mount.controllers) {
      const path = own.v1.get(controller)
      if (path !== undefined && !v1.has(controller)) v1.set(controller, mount.directoryOf(path))
    }
  }
  const v2 = findV2(
    mounts.v2?.directoryOf('/'),
    own.v2 === undefined ? undefined : mounts.v2?.directoryOf(own.v2),
    mayOffer,
  )
  const missingV1 = V1_CONTROLLERS.filter((name) => !v1.has(name))
  const missingV2 = V2_CONTROLLERS.filter((name) => !v2?.controllers.includes(name))
  // A controller is in one hierarchy only; a host may mix both (v1 for systemd's own bookkeeping, say).
  const driver = missingV2.length < missingV1.length ? 'v2' : 'v1'
  const has = (name: string): boolean => (driver === 'v2' ? v2!.controllers.includes(name) : v1.has(name))
  const lacking = Object.entries(OPTIONAL_CONTROLLERS[driver])
    .filter(([name]) => !has(name))
    .map(([name, without]) => `${name} (${without})`)
  return {
    layout: v1.size === 0 ? 'v2' : v2 ? 'hybrid' : 'v1',
    v1,
    v2,
    driver,
    missing: driver === 'v2' ? missingV2 : missingV1,
    lacking,
  }
}

/**
 * The driver for this host. INSTANCE names our directory; FOLDER is on the disk whose io is counted; ANNOUNCE
 * is called with our directories before they are created. Throws Unsupported naming what is missing.
 */
export function createCgroupDriver({
  native,
  instance,
  folder,
  announce = () => {},
}: {
  native: Native
  instance: string
  folder: string
  announce?: Announce
}): CgroupDriver {
  const host = findHostCgroups({ mayOffer: true })
  if (host.missing.length > 0) {
    throw new Unsupported(
      `cgroup controller ${host.missing.join(', ')} is not available (layout ${host.layout}); ` +
        'mount it, or enable it on the kernel command line (cgroup_enable=memory), or run the worker under a systemd unit with Delegate=yes',
    )
  }
  if (host.driver === 'v1') return createV1Driver({ native, host, instance, folder, announce })
  return createV2Driver({
    native,
    directory: host.v2!.directory,
    layout: host.layout === 'hybrid' ? 'hybrid' : 'v2',
    instance,
    announce,
  })
}

// `process` of config.json (OCI runtime spec, config.md, Process), also for `exec --process`.

import { isAbsolute } from 'node:path'
import type { BundleProcess, BundleRlimit, Scheduler } from '../../contract/bundle-spec.ts'
import type { Cursor } from '../../contract/cursor.ts'
import { defined } from '../../contract/defined.ts'
import type { Capabilities, User } from '../../contract/runtime-spec.ts'
import { isCapability } from '../../runtime/capability.ts'
import { RLIMIT } from '../../runtime/linux.ts'

const ID_MAX = 4_294_967_294
/** WY_LIST_MAX of the plan. */
const TEXTS_MAX = 4096
/** NGROUPS_MAX of <linux/limits.h> */
const GROUPS_MAX = 65_536
/** <linux/sched.h> */
const POLICIES = [
  'SCHED_OTHER',
  'SCHED_FIFO',
  'SCHED_RR',
  'SCHED_BATCH',
  'SCHED_ISO',
  'SCHED_IDLE',
  'SCHED_DEADLINE',
] as const
const SCHEDULER_FLAGS = [
  'SCHED_FLAG_RESET_ON_FORK',
  'SCHED_FLAG_RECLAIM',
  'SCHED_FLAG_DL_OVERRUN',
  'SCHED_FLAG_KEEP_POLICY',
  'SCHED_FLAG_KEEP_PARAMS',
  'SCHED_FLAG_UTIL_CLAMP_MIN',
  'SCHED_FLAG_UTIL_CLAMP_MAX',
] as const
/** <linux/ioprio.h>: the class is stored above these bits. */
const IO_CLASSES = ['IOPRIO_CLASS_RT', 'IOPRIO_CLASS_BE', 'IOPRIO_CLASS_IDLE'] as const
const IO_CLASS_SHIFT = 13

function readUser(user: Cursor): User & { umask: number | undefined } {
  if (user.get('username').exists) user.get('username').fault('is for Windows')
  return {
    uid: user.get('uid').maybe((c) => c.whole(0, ID_MAX)) ?? 0,
    gid: user.get('gid').maybe((c) => c.whole(0, ID_MAX)) ?? 0,
    additionalGids: user.get('additionalGids').list((c) => c.whole(0, ID_MAX), GROUPS_MAX),
    umask: user.get('umask').maybe((c) => c.whole(0, 0o777)),
  }
}

/**
 * "Any value which cannot be mapped … or cannot be granted otherwise, MUST be logged as a warning"
 * (config.md, Linux Process). capset(2) and prctl(2) PR_CAP_AMBIENT define which set must be a subset of
 * which.
 */
function readCapabilities(sets: Cursor, warnings: string[]): Capabilities {
  const warn = (name: string, left: readonly string[], why: string): void => {
    if (left.length > 0) warnings.push(`${sets.path}.${name}: left out: ${left.join(', ')}; ${why}`)
  }
  const read = (name: string): string[] => {
    const all = sets.get(name).list((c) => c.text())
    warn(
      name,
      all.filter((capability) => !isCapability(capability)).map((capability) => JSON.stringify(capability)),
      'unknown to this kernel',
    )
    return all.filter(isCapability)
  }
  const grant = (name: string, ...within: ReadonlyArray<readonly [string, readonly string[]]>): string[] =>
    within.reduce((rest, [where, set]) => {
      warn(
        name,
        rest.filter((capability) => !set.includes(capability)),
        `the kernel grants only capabilities that are ${where}`,
      )
      return rest.filter((capability) => set.includes(capability))
    }, read(name))
  const bounding = read('bounding')
  const permitted = read('permitted')
  const inheritable = grant('inheritable', ['in bounding', bounding])
  return {
    bounding,
    permitted,
    inheritable,
    effective: grant('effective', ['permitted', permitted]),
    ambient: grant('ambient', ['permitted', permitted], ['inheritable', inheritable]),
  }
}

function readRlimits(list: Cursor): BundleRlimit[] {
  const seen = new Set<string>()
  return list.list((c) => {
    const type = c.get('type').text()
    if (!Object.hasOwn(RLIMIT, type)) c.get('type').fault(`"${type}" is not a resource limit`)
    if (seen.has(type)) c.get('type').fault(`"${type}" is given twice`)
    seen.add(type)
    const limit = { type, soft: c.get('soft').whole64(), hard: c.get('hard').whole64() }
    if (limit.soft > limit.hard) c.get('soft').fault(`${limit.soft} is above the hard limit ${limit.hard}`)
    return limit
  })
}

function readEnv(list: Cursor): string[] {
  return list.list((c) => {
    const entry = c.text()
    if (!/^[^=]+=/.test(entry)) c.fault(`"${entry.slice(0, 40)}" is not NAME=value`)
    return entry
  }, TEXTS_MAX)
}

/** sched_setattr(2): FIFO and RR need a priority, DEADLINE needs times, the others accept a nice value. */
function readScheduler(scheduler: Cursor): Scheduler {
  const policy = scheduler.get('policy').oneOf(POLICIES, 'a policy')
  const realtime = policy === 'SCHED_FIFO' || policy === 'SCHED_RR'
  const flags = scheduler.get('flags').list((c) => c.oneOf(SCHEDULER_FLAGS, 'a flag'))
  const priority = scheduler.get('priority').maybe((c) => c.whole(0, 99)) ?? 0
  const times = {
    runtime: 0,
    deadline: 0,
    period: 0,
    ...Object.fromEntries(
      ['runtime', 'deadline', 'period'].map((name) => [
        name,
        scheduler.get(name).maybe((c) => c.whole64()) ?? 0,
      ]),
    ),
  }
  if (realtime && priority === 0) scheduler.get('priority').fault(`must be 1 to 99 for ${policy}`)
  if (!realtime && priority !== 0) scheduler.get('priority').fault(`has no meaning for ${policy}`)
  if (policy !== 'SCHED_DEADLINE' && Object.values(times).some((time) => time !== 0))
    scheduler.fault(`runtime, deadline and period have no meaning for ${policy}`)
  if (policy === 'SCHED_ISO') scheduler.get('policy').fault('SCHED_ISO is not implemented by Linux')
  return {
    policy: POLICIES.indexOf(policy),
    flags: flags.reduce((bits, flag) => bits | (1 << SCHEDULER_FLAGS.indexOf(flag)), 0),
    nice: scheduler.get('nice').maybe((c) => c.whole(-20, 19)) ?? 0,
    priority,
    ...times,
  }
}

function readIoPriority(io: Cursor): number {
  const number = 1 + IO_CLASSES.indexOf(io.get('class').oneOf(IO_CLASSES, 'a class'))
  return (number << IO_CLASS_SHIFT) | (io.get('priority').maybe((c) => c.whole(0, 7)) ?? 0)
}

/** A process of config.json or `exec --process`. */
export function readProcess(process: Cursor, warnings: string[]): BundleProcess {
  const { umask, ...user } = readUser(process.get('user'))
  const args = process
    .get('args')
    .needed()
    .list((c) => c.text(), TEXTS_MAX)
  if (process.get('args').exists && args.length === 0)
    process.get('args').fault('is empty; there is nothing to run')
  const cwd = process.get('cwd').text()
  if (!isAbsolute(cwd)) process.get('cwd').fault(`"${cwd}" is not an absolute path`)
  if (process.get('selinuxLabel').maybe((c) => c.text()))
    process.get('selinuxLabel').fault('is not supported by this runtime')
  process.get('execCPUAffinity').refused('is not supported by this runtime')
  process.get('commandLine').refused('is for Windows')
  const scheduler = process.get('scheduler').maybe(readScheduler)
  const ioPriority = process.get('ioPriority').maybe(readIoPriority)
  const consoleSize = process
    .get('consoleSize')
    .maybe((c) => ({ height: c.get('height').whole(0, 65_535), width: c.get('width').whole(0, 65_535) }))
  const oomScoreAdj = process.get('oomScoreAdj').maybe((c) => c.whole(-1000, 1000))
  const apparmorProfile = process.get('apparmorProfile').maybe((c) => c.text()) || undefined
  return {
    args,
    env: readEnv(process.get('env')),
    cwd,
    user,
    capabilities: readCapabilities(process.get('capabilities'), warnings),
    rlimits: readRlimits(process.get('rlimits')),
    noNewPrivileges: process.get('noNewPrivileges').boolean(false),
    terminal: process.get('terminal').boolean(false),
    ...defined({ umask, consoleSize, oomScoreAdj, apparmorProfile, scheduler, ioPriority }),
  }
}

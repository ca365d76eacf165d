// The checks of `wherry doctor`: root, programs, Redis, disk, memory. The kernel and cgroups are checked by
// runtime/.

import { existsSync, readFileSync, statfsSync } from 'node:fs'
import { freemem } from 'node:os'
import { dirname } from 'node:path'
import { probeKernel } from '../runtime/doctor.ts'
import { inspectRedis } from './inspect-redis.ts'
import { findProgram, type Environment } from './up/parts.ts'

export interface Check {
  readonly name: string
  readonly level: 'ok' | 'warn' | 'fail'
  readonly detail: string
  /** What to do; empty if the check passed. */
  readonly remedy: string
}

export interface ExamineOptions {
  readonly data: string
  readonly nativeDir: string
  readonly redisUrl?: string
  readonly env: Environment
}

const DISK_WANTED_BYTES = 2 * 1024 ** 3
const DISK_MIN_BYTES = 64 * 1024 ** 2
const MEMORY_WANTED_BYTES = 256 * 1024 ** 2
const PROGRAMS = [
  ['redis-server', 'wherry up runs Redis with it'],
  ['docker-registry', 'wherry up runs a registry with it'],
  ['setpriv', 'wherry up needs it to end both when it is killed'],
] as const

/** All checks, most important first. */
export async function examine(options: ExamineOptions): Promise<Check[]> {
  return [
    root(),
    ...containers(options),
    ...PROGRAMS.map(([name, use]) => programCheck(name, use, options.env)),
    ...(options.redisUrl === undefined ? [] : await redis(options.redisUrl)),
    disk(options.data),
    memory(),
  ]
}

function check(name: string, level: Check['level'], detail: string, remedy = ''): Check {
  return { name, level, detail, remedy: level === 'ok' ? '' : remedy }
}

function root(): Check {
  const uid = process.getuid?.()
  return check(
    'root',
    uid === 0 ? 'ok' : 'fail',
    `uid ${uid}`,
    'containers need root: sudo wherry doctor, sudo wherry up',
  )
}

function containers({ nativeDir, data }: ExamineOptions): Check[] {
  return probeKernel({ nativeDir, dataDir: data }).map(({ name, level, detail, remedy }) =>
    check(name, level, detail, remedy),
  )
}

function programCheck(name: string, use: string, env: Environment): Check {
  const path = findProgram(name, env)
  return check(
    name,
    path === undefined ? 'warn' : 'ok',
    path ?? 'not installed',
    `${use}; run make setup or install it with apt-get`,
  )
}

async function redis(url: string): Promise<Check[]> {
  const findings = await inspectRedis(url)
  if (findings.length === 0) return [check('redis', 'ok', 'reachable and suitable')]
  return findings.map(({ level, message, remedy }) =>
    check('redis', level === 'refuse' ? 'fail' : 'warn', message, remedy),
  )
}

function disk(data: string): Check {
  let folder = data
  while (!existsSync(folder)) folder = dirname(folder)
  const { bavail, bsize } = statfsSync(folder)
  const freeBytes = bavail * bsize
  const level = freeBytes < DISK_MIN_BYTES ? 'fail' : freeBytes < DISK_WANTED_BYTES ? 'warn' : 'ok'
  return check(
    'disk',
    level,
    `${(freeBytes / 1024 ** 3).toFixed(1)} GiB free in ${data}`,
    'images need space: free some, or choose another folder with --data',
  )
}

function memory(): Check {
  const available =
    Number(
      /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? freemem() / 1024,
    ) * 1024
  return check(
    'memory',
    available < MEMORY_WANTED_BYTES ? 'warn' : 'ok',
    `${(available / 1024 ** 2).toFixed(0)} MiB available`,
    'functions and Redis share it: free some, or lower the functions’ limits',
  )
}

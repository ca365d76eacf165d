// OCI bundles for the tests of wherry-oci: a busybox root file system, a config.json that a test can change,
// and the command with a temporary state folder.

import { spawnSync } from 'node:child_process'
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { specTemplate } from '../../services/oci/config/template.ts'

export const WHERRY_OCI = fileURLToPath(new URL('../../services/oci/wherry-oci', import.meta.url))
const BUSYBOX = '/bin/busybox'
const APPLETS =
  'sh ls cat id mount sleep echo ps env stty tty umask hostname true false grep pwd rm touch wc kill readlink chmod mkdir head dd cut'.split(
    ' ',
  )
const COMMAND_MAX_MS = 300_000

export const needsBundle: false | string =
  process.getuid?.() !== 0
    ? 'needs root: only root can create containers'
    : existsSync(BUSYBOX)
      ? false
      : `needs ${BUSYBOX} (Debian package busybox-static)`

/** A config.json that tests change. Loosely typed, because tests also need invalid ones. */
// oxlint-disable-next-line no-explicit-any
export type Config = any

export interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface BundleRig {
  readonly directory: string
  readonly rootfs: string
  /** Write config.json: the template with SCRIPT as its program, modified by CHANGE. */
  config(script: string, change?: (config: Config) => void): void
  /** Run wherry-oci. INPUT is its stdin. QUIET: processes that it leaves behind inherit none of our pipes. */
  oci(args: readonly string[], more?: { input?: string; quiet?: boolean }): Ended
  /** `wherry-oci run` of SCRIPT under a new container id. */
  run(script: string, change?: (config: Config) => void, flags?: readonly string[]): Ended
}

/** Create a root file system that contains only busybox. */
export function makeRootfs(rootfs: string): void {
  for (const name of ['bin', 'proc', 'sys', 'dev', 'tmp', 'etc'])
    mkdirSync(join(rootfs, name), { recursive: true })
  copyFileSync(BUSYBOX, join(rootfs, 'bin/busybox'))
  for (const applet of APPLETS) symlinkSync('busybox', join(rootfs, 'bin', applet))
}

/** A bundle whose containers, cgroups and folders are removed when T ends. */
export function bundleFor(t: Test): BundleRig {
  const directory = mkdtempSync(join(tmpdir(), 'wherry-oci-'))
  const rootfs = join(directory, 'rootfs')
  const root = join(directory, 'state')
  makeRootfs(rootfs)
  let serial = 0
  const rig: BundleRig = {
    directory,
    rootfs,
    config(script, change = () => {}) {
      const config: Config = structuredClone(specTemplate())
      config.process.terminal = false
      config.process.args = ['sh', '-c', script]
      change(config)
      writeFileSync(join(directory, 'config.json'), JSON.stringify(config))
    },
    oci(args, { input = '', quiet = false } = {}) {
      const file = join(directory, 'stderr')
      const fd = quiet ? openSync(file, 'w') : -1
      const ended = spawnSync(WHERRY_OCI, ['--root', root, ...args], {
        cwd: directory,
        encoding: 'utf8',
        input,
        timeout: COMMAND_MAX_MS,
        stdio: quiet ? ['ignore', 'ignore', fd] : 'pipe',
      })
      if (quiet) closeSync(fd)
      return {
        code: ended.status,
        stdout: ended.stdout ?? '',
        stderr: quiet ? readFileSync(file, 'utf8') : (ended.stderr ?? ''),
      }
    },
    run(script, change, flags = []) {
      rig.config(script, change)
      return rig.oci(['run', ...flags, `${containerName(t)}-${serial++}`])
    },
  }
  t.teardown(() => {
    for (const id of existsSync(root) ? readdirSync(root) : []) rig.oci(['delete', '--force', id])
    rmSync(directory, { recursive: true, force: true })
  })
  return rig
}

/** A container id that is unique on this machine. */
export const containerName = (t: Test): string =>
  `wherry-test-${process.pid}-${t.name.replaceAll(/\W+/g, '-').slice(0, 20)}`

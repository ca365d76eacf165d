// Runs wherry-layer (native/layer/main.c): one child process each time that files of a stage are listed,
// copied or packed. It has its arguments, its operations and its one-line answer.

import { spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { ContentError, SyscallError, Unsupported } from '../contract/errors.ts'
import { readRecords, type ListedEntry } from './layer-listing.ts'

const ANSWER_CHARACTERS_MAX = 4096
const DRAFT_FOLDERS = ['upper', 'work', 'empty', 'root', 'source'] as const
const ADVICE: Readonly<Record<string, string>> = {
  ENOSPC: 'no space is left on the disk of the image store; free some or move the data folder',
  EDQUOT: 'the disk quota of the image store is used up',
  EPERM: 'building images needs root',
  EOPNOTSUPP:
    'the file system of the image store does not keep extended attributes (user.*); use ext4, xfs or btrfs',
}

/** One operation, with the names of native/layer/copy.c. */
export interface CopyOperation {
  /** `directory` creates a missing TO; `copy` copies one file, link or folder (without its contents). */
  readonly what: 'directory' | 'copy'
  readonly from?: string
  /** Path in the stage, without a leading slash. */
  readonly to: string
  /** If TO is a directory, the file goes into it under this name. */
  readonly base?: string
  /** undefined keeps the source's. */
  readonly mode?: number | undefined
  /** undefined keeps the source's. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined
  readonly keepXattrs?: boolean
}

/** Source of files: a folder of the host, in which no link is followed, or a stage's layers. */
export type CopySource = { readonly directory: string } | { readonly layers: readonly string[] }

export type LayerTool = ReturnType<typeof createLayerTool>

interface Ended {
  readonly entries: number
}

function parseAnswer(line: string, ending: string): Ended | Error {
  const ok = /^ok (\d+)$/.exec(line)
  if (ok) return { entries: Number(ok[1]) }
  const system = /^system (\w+) (\w+) "(.*)"$/.exec(line)
  if (system) {
    const [, errno, syscall, name] = system
    const message = `${name === '' ? 'a file of the image' : `"${name}"`} could not be written or read: ${ADVICE[errno!] ?? 'the system call failed'} (${syscall}: ${errno})`
    return new SyscallError(message, { errno: errno!, syscall: syscall!, op: 'build' })
  }
  const refused = /^refused "(.*)" (.*)$/.exec(line)
  if (refused)
    return new ContentError(
      `${refused[1] === '' ? 'it' : `"${refused[1]}"`} ${refused[2]}`,
      'ERR_INVALID_CONTENT',
    )
  return new Error(`wherry-layer ended (${ending}) with unexpected output: "${line}"`)
}

/**
 * Each folder of a stage only once, at its highest place: overlayfs rejects duplicates, and the lower one is
 * hidden.
 */
export function distinctHighest(layers: readonly string[]): readonly string[] {
  return layers.filter((layer, i) => layers.lastIndexOf(layer) === i)
}

/** Creates the folders that wherry-layer expects in DRAFT. */
export async function prepareDraft(draft: string): Promise<void> {
  for (const name of DRAFT_FOLDERS) await mkdir(join(draft, name), { mode: 0o755 })
}

function encode(operations: Iterable<CopyOperation>): Buffer {
  const texts: string[] = []
  for (const o of operations) {
    const flags = `${o.keepXattrs ? 'x' : ''}${o.base === undefined ? '' : 'i'}`
    const owner = o.owner ? [String(o.owner.uid), String(o.owner.gid)] : ['-', '-']
    texts.push(
      o.what === 'directory' ? 'd' : 'c',
      o.from ?? '',
      o.to,
      o.base ?? '',
      o.mode?.toString(8) ?? '-',
      ...owner,
      flags,
    )
  }
  return Buffer.from(texts.map((text) => `${text}\0`).join(''))
}

/** NATIVEDIR is where `make native` puts its programs; SIGNAL kills running ones. */
export function createLayerTool({ nativeDir, signal }: { nativeDir: string; signal: AbortSignal }) {
  const program = join(nativeDir, 'wherry-layer')

  /** Starts it; `ended` settles after its exit, and throws the error that it reported. */
  function start(args: readonly string[], input?: Uint8Array): { stdout: Readable; ended: Promise<Ended> } {
    signal.throwIfAborted()
    const child = spawn(program, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      cwd: '/',
      env: {},
      signal,
      killSignal: 'SIGKILL',
    })
    let answer = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      answer = (answer + text).slice(0, ANSWER_CHARACTERS_MAX)
    })
    child.stdin.on('error', () => {}) // it exited before it had read everything; its answer says why
    child.stdin.end(input)
    const ended = new Promise<Ended>((resolve, reject) => {
      child.once('error', (error) => {
        reject(
          signal.aborted
            ? signal.reason
            : new Unsupported(`${program} could not be started (${error.message}); run make native`, error),
        )
      })
      child.once('close', (code, killed) => {
        const result = parseAnswer(answer.trimEnd(), killed ?? `exit code ${code}`)
        if (result instanceof Error) reject(result)
        else resolve(result)
      })
    })
    ended.catch(() => {}) // a caller that reads the output first awaits it later
    return { stdout: child.stdout, ended }
  }

  async function list(
    what: 'names' | 'contents',
    draft: string,
    layers: readonly string[],
    paths: readonly string[],
  ): Promise<ReadonlyArray<readonly ListedEntry[] | undefined>> {
    const stage = distinctHighest(layers)
    const { stdout, ended } = start(['list', what, draft, String(stage.length), ...stage, ...paths])
    const listed = await readRecords(stdout, what === 'contents').catch(async (error: unknown) => {
      stdout.destroy() // so that the program ends
      await ended // throws the reason for the truncated output
      throw error
    })
    await ended
    return listed
  }

  return {
    /**
     * The entries at each of PATHS in the stage of LAYERS, the first of which is the path itself; undefined
     * if it does not exist.
     */
    list,

    /** Performs OPERATIONS from SOURCE in the stage of LAYERS, whose upper folder is DRAFT's. */
    async copy(
      draft: string,
      layers: readonly string[],
      source: CopySource,
      operations: Iterable<CopyOperation>,
    ): Promise<void> {
      const stage = distinctHighest(layers)
      const from = 'layers' in source ? distinctHighest(source.layers) : []
      const { stdout, ended } = start(
        [
          'copy',
          draft,
          String(stage.length),
          ...stage,
          String(from.length),
          ...from,
          ...('directory' in source ? [source.directory] : []),
        ],
        encode(operations),
      )
      stdout.resume()
      await ended
    },

    /**
     * The layer that was written over LAYERS into the folder UPPER, as a tar stream; UPPER becomes exactly
     * that layer. Times are at most CLAMPSECONDS. `ended` has the number of entries.
     */
    pack(
      upper: string,
      layers: readonly string[],
      clampSeconds: number | undefined,
    ): { stdout: Readable; ended: Promise<Ended> } {
      return start([
        'pack',
        upper,
        clampSeconds === undefined ? '-' : String(clampSeconds),
        ...distinctHighest(layers),
      ])
    },
  }
}

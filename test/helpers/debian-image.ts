// A realistic image from this machine's Debian packages and the project's Node: a base layer, Node, and npm
// packages. Comparisons with other tools need real trees, with hard links, set-user-ID programs, thousands of
// small files and one of 150 MB. The layers are made once and cached in build/images.

import { execFileSync } from 'node:child_process'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const FOLDER = join(ROOT, 'build/images')
const NPM_PACKAGES = ['@opentelemetry', 'bullmq', 'commander', 'fastify', 'ioredis', 'pino', 'undici', 'zod']
const LIST_BYTES_MAX = 64 * 1024 ** 2

const lines = (program: string, args: readonly string[]): string[] =>
  execFileSync(program, args, { encoding: 'utf8', maxBuffer: LIST_BYTES_MAX }).split('\n')

/** PATH with symlinks resolved above its last part, as in a usr-merged image. */
function merged(path: string): string {
  return join(realpathSync(dirname(path)), basename(path))
}

/** All files of this machine's required and important packages, without leading "/". */
function debianFiles(): string[] {
  const packages = lines('dpkg-query', ['-W', '-f', '${binary:Package} ${Priority} ${Essential}\n'])
    .filter((line) => / (?:required|important) | yes$/.test(line))
    .map((line) => line.split(' ')[0]!)
  const listed = lines('dpkg', ['-L', ...packages]).filter((path) => path.startsWith('/') && path !== '/.')
  const there = listed.filter((path) => lstatSync(path, { throwIfNoEntry: false }) !== undefined).map(merged)
  const kept = [...there, '/bin', '/lib', '/lib64', '/sbin'].filter(
    (path) => existsSync(path) && !/^\/(?:proc|sys|dev|run|tmp)?$/.test(path),
  )
  return [...new Set(kept)].map((path) => path.slice(1)).toSorted()
}

/** Make NAME.tar.gz unless it exists: FILES of FROM, moved below INTO. */
function pack(name: string, from: string, files: () => readonly string[], into?: string): string {
  const path = join(FOLDER, `${name}.tar.gz`)
  if (existsSync(path)) return path
  mkdirSync(FOLDER, { recursive: true })
  const list = `${path}.list`
  writeFileSync(list, files().join('\n') + '\n')
  const move = into === undefined ? [] : ['--transform', `flags=r;s,^,${into}/,`]
  execFileSync('tar', [
    '-C',
    from,
    '--format=posix',
    '--xattrs',
    '--xattrs-include=*',
    '--numeric-owner',
    '--no-recursion',
    '--warning=no-file-changed',
    '-T',
    list,
    ...move,
    '-I',
    'gzip -6 -n',
    '-cf',
    `${path}.new`,
  ])
  renameSync(`${path}.new`, path)
  rmSync(list)
  return path
}

function npmFiles(): string[] {
  return lines('find', ['-L', ...NPM_PACKAGES.map((name) => join(ROOT, 'node_modules', name))])
    .filter((path) => path !== '')
    .map((path) => relative(ROOT, path))
    .toSorted()
}

/** The base layer alone: some 100 MB and 5,000 entries unpacked. */
export function debianLayer(): string {
  return pack('debian', '/', debianFiles)
}

/** Base, Node, npm packages: packed files, lowest first; together some 300 MB unpacked. */
export function debianNodeLayers(): string[] {
  const node = realpathSync(join(ROOT, 'node_modules/.bin/node'))
  return [
    debianLayer(),
    pack('node', dirname(node), () => [basename(node)], 'usr/local/bin'),
    pack('npm', ROOT, npmFiles, 'usr/local/lib'),
  ]
}

/** A layer of one file of RANDOM bytes and as many zeros: so half of it can be compressed. */
export function largeLayer(name: string, sizeBytes: number): string {
  const path = join(FOLDER, `${name}.tar.gz`)
  if (existsSync(path) && statSync(path).size > sizeBytes) return path
  mkdirSync(FOLDER, { recursive: true })
  const raw = join(FOLDER, `${name}.bin`)
  execFileSync('sh', [
    '-c',
    `head -c ${sizeBytes} /dev/urandom >"$0" && head -c ${sizeBytes} /dev/zero >>"$0"`,
    raw,
  ])
  execFileSync('tar', ['-C', FOLDER, '-I', 'gzip -1 -n', '-cf', `${path}.new`, basename(raw)])
  rmSync(raw)
  renameSync(`${path}.new`, path)
  return path
}

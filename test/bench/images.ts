// `make bench-images`: the time from the start of a pull, from a registry on loopback, until the image's
// files are on disk.
//
//   wherry-pull    Wherry, in a child process (pull-once.ts); syncs the unpacked files to disk
//   podman-pull    podman pull into an empty root, with podman's default driver; no sync
//   skopeo-umoci   skopeo copy to an OCI layout, then umoci unpack; no sync
//
// They alternate, with the same registry process, the same image (test/helpers/debian-image.ts) and an empty
// store for each run. A run's time includes its whole process or processes. Then, for Wherry alone: the bytes
// that a second image with shared layers transfers (from the registry's access log), memory and event-loop
// delay during a 1 GB pull, and the cost of pulling an image that is already in the store. Prints a table and
// writes build/bench-images.json: [{name, unit, p50, p99, n}].

import { execFile, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { fileURLToPath } from 'node:url'
import { pushImage } from '../../infra/demo/push-image.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { debianLayer, debianNodeLayers, largeLayer } from '../helpers/debian-image.ts'
import { GZIP_LAYER, gzipLayer } from '../helpers/layer.ts'
import type { PullCost } from './pull-once.ts'
import type { Row } from './sustained.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 7)
const LARGE_LAYERS = 4
const LARGE_LAYER_BYTES = 256 * 1024 ** 2
const OUTPUT_BYTES_MAX = 16 * 1024 ** 2

const exec = promisify(execFile)
const run = async (program: string, args: readonly string[]): Promise<string> =>
  (await exec(program, args, { maxBuffer: OUTPUT_BYTES_MAX })).stdout

interface Registry {
  readonly host: string
  /** Blob bytes sent since the last call. */ sent(): number
  stop(): void
}
interface Pushed {
  readonly reference: string
  readonly digest: string
}
interface Subject {
  readonly name: string
  /** Pull IMAGE into the empty FOLDER. */ run(folder: string, image: Pushed): Promise<unknown>
}

async function startRegistry(folder: string): Promise<Registry> {
  const config = join(folder, 'registry.yml')
  writeFileSync(
    config,
    [
      'version: 0.1',
      'log: { level: info, formatter: json }',
      `storage: { filesystem: { rootdirectory: ${join(folder, 'registry')} } }`,
      'http: { addr: "127.0.0.1:0" }',
      '',
    ].join('\n'),
  )
  const child = spawn('setpriv', ['--pdeathsig', 'SIGKILL', '--', 'docker-registry', 'serve', config], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let log = ''
  const host = await new Promise<string>((resolve, reject) => {
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      log += text
      const address = /listening on (127\.0\.0\.1:\d+)/.exec(log)
      if (address) resolve(address[1]!)
    })
    child.once('exit', (code) => reject(new Error(`docker-registry exited with ${code}: ${log}`)))
  })
  return {
    host,
    sent() {
      const bytes = [
        ...log.matchAll(/"http\.request\.uri":"[^"]*\/blobs\/[^"]*".*?"http\.response\.written":(\d+)/g),
      ].reduce((sum, match) => sum + Number(match[1]), 0)
      log = ''
      return bytes
    },
    stop: () => {
      child.kill('SIGKILL')
    },
  }
}

async function push(
  host: string,
  name: string,
  files: readonly string[],
  extra: ReadonlyArray<{ bytes: Uint8Array; mediaType: string }> = [],
): Promise<Pushed> {
  const registry = createRegistryClient()
  const reference = `${host}/bench/${name}:v1`
  try {
    const layers = [...files.map((file) => ({ file, mediaType: GZIP_LAYER })), ...extra]
    return {
      reference,
      digest: await pushImage({
        registry,
        reference: parseReference(reference),
        config: { config: { Cmd: ['node'] } },
        layers,
      }),
    }
  } finally {
    await registry.close()
  }
}

async function pullOnce(folder: string, { reference, digest }: Pushed): Promise<PullCost> {
  return JSON.parse(
    await run(process.execPath, [join(ROOT, 'test/bench/pull-once.ts'), folder, reference, digest]),
  ) as PullCost
}

const subjects: readonly Subject[] = [
  { name: 'wherry-pull', run: pullOnce },
  {
    name: 'podman-pull',
    async run(folder, { reference }) {
      await run('podman', [
        '--root',
        join(folder, 'root'),
        '--runroot',
        join(folder, 'run'),
        'pull',
        '-q',
        '--tls-verify=false',
        reference,
      ])
    },
  },
  {
    name: 'skopeo-umoci',
    async run(folder, { reference }) {
      await run('skopeo', [
        'copy',
        '-q',
        '--src-tls-verify=false',
        `docker://${reference}`,
        `oci:${folder}/layout:v1`,
      ])
      await run('umoci', ['unpack', '--image', `${folder}/layout:v1`, join(folder, 'bundle')])
    },
  },
]

/**
 * Run WORK with an empty folder on the disk of the stores, after a sync. The folder stays until the end of
 * the benchmark: ext4 skips recently deleted inodes one by one for a minute, which would slow the next run.
 */
async function inColdFolder<T>(base: string, work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(base, 'c-'))
  await run('sync', [])
  try {
    return await work(folder)
  } finally {
    // podman leaves a bind mount.
    await exec('umount', [join(folder, 'root/overlay')]).catch(() => {})
  }
}

const percentile = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!

function rowOf(name: string, unit: string, values: readonly number[]): Row {
  const sorted = values.toSorted((a, b) => a - b)
  return { name, unit, p50: percentile(sorted, 0.5), p99: percentile(sorted, 0.99), n: sorted.length }
}

async function compare(base: string, image: Pushed): Promise<Row[]> {
  const times = new Map<string, number[]>(subjects.map((subject) => [subject.name, []]))
  for (let round = -1; round < ROUNDS; round++) {
    for (const subject of subjects) {
      const ms = await inColdFolder(base, async (folder) => {
        const startedAt = performance.now()
        await subject.run(folder, image)
        return performance.now() - startedAt
      })
      if (round >= 0) times.get(subject.name)!.push(ms)
    }
  }
  return [...times].map(([name, values]) => rowOf(name, 'ms', values))
}

/** Wherry alone: shared layers, a 1 GB image, and an image that is already in the store. */
async function measureOwn(base: string, registry: Registry, image: Pushed): Promise<Row[]> {
  const small = gzipLayer([{ name: 'etc/second', data: 'x' }])
  const second = await push(registry.host, 'second', [debianLayer()], [small])
  const large = await push(
    registry.host,
    'large',
    Array.from({ length: LARGE_LAYERS }, (_, i) => largeLayer(`large-${i}`, LARGE_LAYER_BYTES)),
  )
  const { firstBytes, secondBytes, stored } = await inColdFolder(base, async (folder) => {
    registry.sent()
    const stored = await pullOnce(folder, image)
    const firstBytes = registry.sent()
    await pullOnce(folder, second)
    return { firstBytes, secondBytes: registry.sent(), stored }
  })
  const gigabyte = await inColdFolder(base, (folder) => pullOnce(folder, large))
  return [
    rowOf('first-image-transferred', 'bytes', [firstBytes]),
    rowOf('second-image-transferred', 'bytes', [secondBytes]),
    rowOf('known-image', 'ms', [stored.knownMs]),
    rowOf('stored-image', 'ms', [stored.storedMs]),
    rowOf('gigabyte-pull', 'ms', [gigabyte.pullMs]),
    rowOf('gigabyte-rss-growth', 'MiB', [gigabyte.rssGrowthBytes / 1024 ** 2]),
    rowOf('gigabyte-event-loop-p99', 'ms', [gigabyte.loopDelayP99Ms]),
  ]
}

function print(rows: readonly Row[]): void {
  const p50 = (name: string): number => rows.find((row) => row.name === name)!.p50
  console.log(
    `\n${'name'.padEnd(26)}${'unit'.padEnd(7)}${'p50'.padStart(12)}${'p99'.padStart(12)}${'n'.padStart(4)}`,
  )
  for (const row of rows)
    console.log(
      `${row.name.padEnd(26)}${row.unit.padEnd(7)}${row.p50.toFixed(2).padStart(12)}${row.p99.toFixed(2).padStart(12)}${String(row.n).padStart(4)}`,
    )
  const bars: ReadonlyArray<readonly [string, number, number]> = [
    ['wherry-pull / podman-pull', p50('wherry-pull') / p50('podman-pull'), 0.6],
    ['wherry-pull / skopeo-umoci', p50('wherry-pull') / p50('skopeo-umoci'), 0.7],
    [
      'second image / first image, bytes',
      p50('second-image-transferred') / p50('first-image-transferred'),
      0.01,
    ],
    ['an image already in the store, ms', p50('known-image'), 1],
    ['memory growth during 1 GB, MiB', p50('gigabyte-rss-growth'), 150],
    ['event-loop delay p99 during 1 GB, ms', p50('gigabyte-event-loop-p99'), 20],
  ]
  console.log()
  for (const [what, value, bar] of bars)
    console.log(`${value <= bar ? '✓' : '✗'} ${what}: ${value.toFixed(3)} (at most ${bar})`)
}

async function main(): Promise<void> {
  const base = mkdtempSync(join(process.env['BENCH_DIR'] ?? tmpdir(), 'wherry-images-'))
  let registry: Registry | undefined
  try {
    registry = await startRegistry(base)
    const image = await push(registry.host, 'debian-node', debianNodeLayers())
    const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(' / / '))
      .map((line) => line.split(' - ')[1])
    console.log(
      `${cpus().length} × ${cpus()[0]!.model}, load ${loadavg()
        .map((load) => load.toFixed(2))
        .join(' ')}, / is ${mounts[0]}; ${ROUNDS} rounds`,
    )
    const rows = [...(await compare(base, image)), ...(await measureOwn(base, registry, image))]
    print(rows)
    mkdirSync(join(ROOT, 'build'), { recursive: true })
    writeFileSync(join(ROOT, 'build/bench-images.json'), JSON.stringify(rows, undefined, 2) + '\n')
    console.log('\nwritten to build/bench-images.json')
  } finally {
    registry?.stop()
    await run('rm', ['-rf', '--one-file-system', '--', base])
  }
}

await main()

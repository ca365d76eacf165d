// The catalog of the image store, on real folders and with real processes that are killed.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { mkdir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { digestOf } from '../../services/contract/digest.ts'
import { createReadyImages } from '../../services/images/ready.ts'
import { createImageStore } from '../../services/images/store.ts'

const HEX = (n: number): string => n.toString(16).padStart(64, '0')
const ID = (n: number): string => `sha256:${HEX(n)}`

function setup(t: Test, dir: string = join(t.testdir({ store: {} }), 'store')) {
  const notes: string[] = []
  const store = createImageStore({
    dir,
    onNote: (text) => {
      notes.push(text)
    },
  })
  t.teardown(() => store.close())
  return { dir, store, catalog: store.catalog, notes }
}

/**
 * A process that runs CODE with the `catalog` of the store in DIR and then stays; resolves when it has
 * printed "ready".
 */
async function startHolder(t: Test, dir: string, code: string) {
  const script = `
    import { createImageStore } from ${JSON.stringify(join(import.meta.dirname, '../../services/images/store.ts'))}
    const { catalog } = createImageStore({ dir: ${JSON.stringify(dir)} })
    ${code}
    console.log('ready')
    setInterval(() => {}, 1000)`
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { PATH: process.env['PATH'] },
  })
  const exited = once(child, 'exit')
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL')
    await exited
  }
  t.teardown(kill)
  await once(child.stdout, 'data')
  return { kill }
}

t.test('an image is recorded, named, found and touched', async (t) => {
  const { catalog } = setup(t)
  const layers = [
    { diffId: ID(10), digest: ID(20), sizeBytes: 5 },
    { diffId: ID(11), digest: ID(21), sizeBytes: 6 },
  ]
  catalog.recordImage({
    digest: ID(1),
    manifestDigest: ID(2),
    configDigest: ID(3),
    source: 'localhost:5000/a',
    layers,
  })
  t.equal(catalog.tag('docker.io/library/a:latest', ID(1)), undefined)
  t.match(catalog.image(ID(1)), {
    digest: ID(1),
    manifestDigest: ID(2),
    configDigest: ID(3),
    source: 'localhost:5000/a',
    layers,
    names: ['docker.io/library/a:latest'],
    isDeployed: false,
    isPinned: false,
  })
  t.equal(catalog.find('docker.io/library/a:latest'), ID(1))
  t.equal(catalog.find('docker.io/library/b:latest'), undefined)
  catalog.recordImage({ digest: ID(4), manifestDigest: ID(4), configDigest: ID(3), layers: [] })
  t.equal(catalog.tag('docker.io/library/a:latest', ID(4)), ID(1), 'says what the name was before')
  t.strictSame([...catalog.names()], [['docker.io/library/a:latest', ID(4)]])
  catalog.recordImage({ digest: ID(1), manifestDigest: ID(2), configDigest: ID(3), layers })
  t.equal(catalog.image(ID(1))?.source, 'localhost:5000/a', 'a source once known stays')
  t.equal(catalog.image(ID(1))?.layers.length, 2)
  const before = catalog.image(ID(4))!.usedAtMs
  catalog.touch(ID(4))
  t.ok(catalog.images().find((image) => image.digest === ID(4))!.usedAtMs >= before)
  t.equal(catalog.untag('docker.io/library/a:latest'), true)
  t.equal(catalog.untag('docker.io/library/a:latest'), false)
  catalog.setDeployed([ID(1), ID(1), ID(9)])
  t.equal(catalog.image(ID(1))?.isDeployed, true)
  catalog.setDeployed([ID(9)])
  t.equal(catalog.image(ID(1))?.isDeployed, false)
})

t.test('a pin is valid until the process that made it ends', async (t) => {
  const { dir, catalog } = setup(t)
  catalog.recordImage({ digest: ID(1), manifestDigest: ID(1), configDigest: ID(3), layers: [] })
  catalog.pin(ID(1))
  catalog.pin(ID(1), ID(2))
  catalog.unpin(ID(1))
  t.equal(catalog.image(ID(1))?.isPinned, true)
  catalog.unpin(ID(1), ID(2))
  t.equal(catalog.image(ID(1))?.isPinned, false)
  const holder = await startHolder(t, dir, `catalog.pin(${JSON.stringify(ID(1))})`)
  t.equal(catalog.image(ID(1))?.isPinned, true, 'another process needs it')
  await holder.kill()
  t.equal(catalog.image(ID(1))?.isPinned, false, 'it was killed')
})

t.test(
  'one process at a time has the claim for a layer; the claim of a dead process is taken over',
  async (t) => {
    const { dir, catalog } = setup(t)
    const holder = await startHolder(t, dir, `await catalog.claimLayer(${JSON.stringify(ID(1))})`)
    let isOurs = false
    const waiting = catalog.claimLayer(ID(1)).then(() => {
      isOurs = true
    })
    await catalog.claimLayer(ID(2))
    t.equal(isOurs, false, 'the living one keeps it')
    await t.rejects(catalog.claimLayer(ID(1), AbortSignal.abort(new Error('enough'))), { message: 'enough' })
    await holder.kill()
    await waiting
    catalog.releaseLayer(ID(1))
    await catalog.claimLayer(ID(1))
  },
)

t.test('a blob of any size is stored under its digest, or not at all', async (t) => {
  const { dir, store } = setup(t)
  const bytes = Buffer.from('some layer')
  const digest = digestOf(bytes)
  t.equal(await store.hasBlob(digest), false)
  t.strictSame(
    await store.putBlob(Readable.from([bytes.subarray(0, 4), bytes.subarray(4)]), {
      digest,
      size: bytes.length,
    }),
    { digest, size: bytes.length },
  )
  t.equal(await store.hasBlob(digest), true)
  t.strictSame(readFileSync(store.blobPath(digest)), bytes)
  await t.rejects(store.putBlob(bytes, { digest: ID(1) }), {
    code: 'ERR_DIGEST_MISMATCH',
    message: /came with the digest/,
  })
  await t.rejects(store.putBlob(bytes, { size: 3 }), {
    code: 'ERR_DIGEST_MISMATCH',
    message: /more than 3 bytes/,
  })
  await t.rejects(store.putBlob(bytes, { size: 30 }), {
    code: 'ERR_DIGEST_MISMATCH',
    message: /ended after 10 of 30 bytes/,
  })
  await t.rejects(
    store.putBlob(
      Readable.from(
        (async function* () {
          yield bytes
          throw new Error('cut')
        })(),
      ),
    ),
    { message: 'cut' },
  )
  t.strictSame(readdirSync(join(dir, 'tmp')), [])
  t.strictSame(readdirSync(join(dir, 'blobs/sha256')), [digest.slice(7)])
})

/** An image as blobs and layer folders, as a pull leaves it. */
async function putImage(store: ReturnType<typeof createImageStore>, n: number): Promise<string> {
  const config = Buffer.from(
    JSON.stringify({ os: 'linux', architecture: 'amd64', rootfs: { type: 'layers', diff_ids: [ID(n)] } }),
  )
  const configDigest = (await store.putBlob(config)).digest
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: {
        mediaType: 'application/vnd.oci.image.config.v1+json',
        digest: configDigest,
        size: config.length,
      },
      layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: ID(n + 1), size: 7 }],
    }),
  )
  await store.commitLayer(await store.makeDraft(), ID(n))
  const { digest } = await store.putBlob(manifest)
  store.catalog.recordImage({
    digest,
    manifestDigest: digest,
    configDigest,
    source: 'localhost:5000/a',
    layers: [{ diffId: ID(n), digest: ID(n + 1), sizeBytes: 7 }],
  })
  return digest
}

t.test('a missing catalog is rebuilt from blobs and layers', async (t) => {
  const first = setup(t)
  const digest = await putImage(first.store, 100)
  const gone = await putImage(first.store, 200)
  const recorded = first.catalog.image(digest)!
  first.store.close()
  rmSync(join(first.dir, 'catalog'), { recursive: true })
  rmSync(first.store.layerPath(ID(200)), { recursive: true })
  const { catalog } = setup(t, first.dir)
  t.match(catalog.image(digest), {
    digest,
    configDigest: recorded.configDigest,
    layers: recorded.layers,
    names: [],
  })
  t.equal(catalog.image(gone), undefined, 'an image whose layers are not there is none')
})

t.test('a damaged catalog is rebuilt with a note, and keeps what could be read', async (t) => {
  const first = setup(t)
  const digest = await putImage(first.store, 100)
  first.catalog.tag('localhost:5000/a:v1', digest)
  first.store.close()
  const file = join(first.dir, 'catalog/index.db')
  writeFileSync(file, 'not a database '.repeat(1000))
  const second = setup(t, first.dir)
  t.equal(second.catalog.image(digest)?.digest, digest)
  t.match(second.notes, [/is damaged .*: it is rebuilt/])
  second.catalog.tag('localhost:5000/a:v2', digest)
  second.store.close()
  // One bad page in the middle: the names, on other pages, can still be read.
  const bytes = readFileSync(file)
  const pages = bytes.length / 4096
  for (let page = 1; page < pages; page++) {
    const start = page * 4096
    if (bytes.subarray(start, start + 4096).includes('localhost:5000/a')) continue
    bytes.fill(0xee, start, start + 4096)
  }
  writeFileSync(file, bytes)
  const third = setup(t, first.dir)
  t.equal(third.catalog.image(digest)?.digest, digest)
  t.match(third.notes, [/rebuilt/])
  t.equal(third.catalog.find('localhost:5000/a:v2'), digest)
})

t.test('processes with an old catalog open switch to the new one and keep their pins', async (t) => {
  const first = setup(t)
  const digest = await putImage(first.store, 100)
  first.catalog.pin(digest)
  await rename(join(first.dir, 'catalog'), join(first.dir, 'tmp/away'))
  const second = setup(t, first.dir)
  t.equal(second.catalog.image(digest)?.isPinned, false)
  t.equal(first.catalog.find('x'), undefined)
  t.equal(second.catalog.image(digest)?.isPinned, true)
})

t.test('opening the store removes the drafts of dead processes', async (t) => {
  const { dir, store } = setup(t)
  await store.open()
  await mkdir(join(dir, 'tmp/1-1-dead/inner'), { recursive: true })
  const second = setup(t, dir)
  await second.store.open()
  t.equal(existsSync(join(dir, 'tmp/1-1-dead')), false)
  t.equal(statSync(join(dir, 'tmp')).mode & 0o777, 0o700)
})

t.test('ready images are pinned once, stay while a container runs, and are bounded', async (t) => {
  const { catalog } = setup(t)
  const ready = createReadyImages(catalog)
  const image = (n: number) => ({
    digest: ID(n),
    config: {
      os: '',
      architecture: '',
      env: [],
      entrypoint: [],
      cmd: [],
      user: '',
      workingDir: '/',
      diffIds: [],
    },
    layers: [],
  })
  const isPinned = (n: number): boolean => {
    catalog.recordImage({ digest: ID(n), manifestDigest: ID(n), configDigest: ID(n), layers: [] })
    return catalog.image(ID(n))!.isPinned
  }
  ready.add(image(1))
  ready.add(image(1))
  ready.retain(ID(1))
  ready.letGo(() => false)
  t.equal(isPinned(1), true, 'a container runs')
  ready.letGo((digest) => digest === ID(1))
  ready.release(ID(1))
  t.equal(isPinned(1), true, 'a function has it again')
  ready.retain(ID(1))
  ready.letGo(() => false)
  ready.release(ID(1))
  t.equal(isPinned(1), false, 'let go when the container has ended')
  t.equal(ready.find(ID(1)), undefined)
  for (let n = 1000; n < 1300; n++) ready.add(image(n))
  t.equal(ready.find(ID(1000)), undefined, 'the one used longest ago made room')
  t.equal(isPinned(1000), false)
  t.equal(ready.find(ID(1299))?.digest, ID(1299))
})

t.test('nothing is removed for a minute after a catalog was rebuilt', async (t) => {
  const first = setup(t)
  const digest = await putImage(first.store, 100)
  first.store.close()
  rmSync(join(first.dir, 'catalog'), { recursive: true })
  const { store } = setup(t, first.dir)
  await t.rejects(store.collector.prune(), {
    code: 'ERR_IMAGE_IN_USE',
    message: /was just rebuilt.*try again in \d+ s/,
  })
  await t.rejects(store.collector.removeImage(digest), { code: 'ERR_IMAGE_IN_USE' })
  t.equal(await store.collector.collect({ high: { bytes: 1 }, low: { bytes: 1 } }), undefined)
  t.equal(store.catalog.image(digest)?.digest, digest)
})

t.test('unneeded images are removed even after the clock was set back', async (t) => {
  const { dir, store, catalog } = setup(t)
  const digest = await putImage(store, 100)
  const { digest: orphan } = await store.putBlob(Buffer.from('of a pull that was cut'))
  const db = new DatabaseSync(join(dir, 'catalog/index.db'))
  t.teardown(() => db.close())
  const inAYear = Date.now() + 365 * 86_400_000
  db.exec(
    `UPDATE images SET used_at_ms = ${inAYear}; INSERT OR REPLACE INTO meta (key, value) VALUES ('settled_at_ms', '${inAYear}')`,
  )
  await t.rejects(store.collector.prune(), {
    code: 'ERR_IMAGE_IN_USE',
    message: /try again in (?:60|5\d) s$/,
  })
  db.exec(`UPDATE meta SET value = '0' WHERE key = 'settled_at_ms'`)
  t.match(await store.collector.prune({ olderThanMs: 1 }), { images: [] }, 'as if it was used now')
  t.match(await store.collector.prune(), { images: [{ digest }] })
  t.equal(catalog.image(digest), undefined)
  t.equal(await store.hasBlob(orphan), true, 'what is new stays')
})

t.test('the error for an unusable catalog names it and the reason', async (t) => {
  const { dir, store } = setup(t)
  await store.open()
  await mkdir(join(dir, 'catalog/index.db'), { recursive: true })
  t.throws(() => store.catalog.names(), {
    message: `the catalog of the image store ${dir} cannot be used: unable to open database file`,
  })
  rmSync(join(dir, 'catalog/index.db'), { recursive: true })
  t.same([...store.catalog.names()], [])
})

// Creates a one-layer image from this machine's static busybox, without network, for the demo and the tests.

import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { pushImage } from './push-image.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'

const BUSYBOX = '/bin/busybox'
const TAR_MAX_BYTES = 64 * 1024 ** 2

/** A gzip layer with busybox and links for its applets, the users root and nobody, and an empty /tmp. */
export function makeBusyboxLayer(): Buffer {
  const root = mkdtempSync(join(tmpdir(), 'wherry-image-'))
  try {
    for (const folder of ['bin', 'etc', 'root', 'var', 'tmp'])
      mkdirSync(join(root, folder), { mode: folder === 'tmp' ? 0o1777 : 0o755 })
    copyFileSync(BUSYBOX, join(root, 'bin/busybox'))
    const names = execFileSync(BUSYBOX, ['--list'], { encoding: 'utf8' })
      .split('\n')
      .filter((name) => name !== '' && name !== 'busybox')
    for (const name of names) symlinkSync('busybox', join(root, 'bin', name))
    writeFileSync(
      join(root, 'etc/passwd'),
      'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n',
    )
    writeFileSync(join(root, 'etc/group'), 'root:x:0:\nnogroup:x:65534:\n')
    const tar = execFileSync(
      'tar',
      ['-C', root, '--owner=0', '--group=0', '--numeric-owner', '--sort=name', '--mtime=@0', '-cf', '-', '.'],
      { maxBuffer: TAR_MAX_BYTES },
    )
    return gzipSync(tar, { level: 1 })
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}

/** Push LAYER as the image REGISTRY/busybox:demo ("127.0.0.1:5000/…"). Returns the reference to deploy. */
export async function pushBusybox(registry: string, layer: Uint8Array): Promise<string> {
  const reference = `${registry}/busybox:demo`
  const client = createRegistryClient()
  try {
    await pushImage({
      registry: client,
      reference: parseReference(reference),
      layers: [{ bytes: layer, mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip' }],
      config: { config: { Env: ['PATH=/bin'], Cmd: ['sh'] } },
    })
  } finally {
    await client.close()
  }
  return reference
}

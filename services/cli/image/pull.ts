// wherry image pull: pulls images into the store, unpacked and packed, with progress.

import { defined } from '../../contract/defined.ts'
import { createLocalFirst } from '../../images/local-first.ts'
import { createPuller } from '../../images/pull.ts'
import { formatReference, parseReference } from '../../registry/reference.ts'
import { openRegistryClient } from '../../registry/open-registry.ts'
import { NATIVE_DEFAULT } from '../commands/version.ts'
import type { Context } from '../context.ts'
import { interruptible } from '../interrupt.ts'
import { registryAccess } from '../registry-access.ts'
import { shortDigest } from '../terminal.ts'
import { withStore, type StoreOptions } from './open.ts'
import { createProgress } from './progress.ts'

export async function pullImages(
  texts: readonly string[],
  options: StoreOptions & { readonly quiet?: boolean },
  context: Context,
): Promise<void> {
  const refs = texts.map(parseReference)
  const { stdout, env } = context
  await interruptible('image pull', context, (signal) =>
    withStore(
      'image pull',
      options,
      context,
      async (store) => {
        const registry = openRegistryClient(registryAccess(options, context))
        const progress = createProgress(context, { quiet: options.quiet === true })
        const puller = createPuller({
          store,
          registry: createLocalFirst({ store, registry, keepPacked: true }),
          nativeDir: env.WHERRY_NATIVE || NATIVE_DEFAULT,
          onProgress: progress.onLayer,
        })
        signal.addEventListener(
          'abort',
          () => {
            void puller.stop()
          },
          { once: true },
        )
        try {
          for (const ref of refs) {
            const { digest } = await registry.resolve(ref, signal)
            const { pulled } = await puller.ensure(ref, digest)
            progress.end()
            const name = ref.digest === undefined ? formatReference(ref) : undefined
            const before = name === undefined ? undefined : store.catalog.tag(name, digest)
            const moved = before !== undefined && before !== digest
            if (options.json)
              stdout.write(
                `${JSON.stringify({ ...defined({ name }), digest, pulled, ...(moved && { before }) })}\n`,
              )
            else
              stdout.write(
                `${pulled ? 'pulled' : 'already have'} ${name ?? formatReference(ref)}, ${shortDigest(digest)}${moved ? `; previously ${shortDigest(before)}` : ''}\n`,
              )
          }
        } finally {
          progress.end()
          await puller.stop()
          await registry.close()
        }
      },
      { create: true },
    ),
  )
}

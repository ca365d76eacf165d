// Sends one deployment to a gateway and reports the result. The function may come from options, a file or a
// project.

import { awaitImage } from './await-image.ts'
import type { Context } from './context.ts'
import { Failure } from './failure.ts'
import type { GatewayClient } from './gateway-client.ts'
import { printable } from './terminal.ts'

/** The body of POST /system/functions; the gateway validates every field. */
export type Deployment = Record<string, unknown>

/**
 * Deploys one function and waits until workers have its image. Throws Failure if the gateway rejects it or no
 * worker could pull the image.
 */
export async function deployOne(
  client: GatewayClient,
  deployment: Deployment,
  { wait, json }: { readonly wait: boolean; readonly json?: boolean },
  context: Context,
): Promise<void> {
  const answer = await client.json({ method: 'POST', path: '/system/functions', json: deployment })
  const { imageDigest, warnings } = (answer ?? {}) as { imageDigest?: unknown; warnings?: readonly string[] }
  const name = String(deployment.service)
  for (const warning of warnings ?? []) context.stderr.write(`wherry: deploy: ${printable(warning)}\n`)
  if (json) context.stdout.write(`${JSON.stringify(answer)}\n`)
  else context.stdout.write(`deployed ${name}: ${String(deployment.image)} (${String(imageDigest)})\n`)
  if (!wait) return
  const { ready, failures } = await awaitImage(client, name, context, { quiet: json === true })
  for (const failure of failures) context.stderr.write(`wherry: deploy: no image on worker ${failure}\n`)
  if (ready === 0 && failures.length > 0)
    throw new Failure('deploy', `${name} is deployed, but no worker could pull its image`, {
      remedy: 'calls fail with pull_fail until one can',
    })
}

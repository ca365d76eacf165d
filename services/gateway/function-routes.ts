// The control plane of functions: deploy, list, show, remove. The shapes are OpenFaaS's plus our own fields
// (docs/http-api.md). A deployment is checked completely, then its image is resolved to a digest, and only
// then is anything stored.

import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { defined } from '../contract/defined.ts'
import { ContentError, InvalidRequest, NotFound, RegistryError, type Fault } from '../contract/errors.ts'
import { describeSpec, parseDeployment } from '../contract/deployment.ts'
import type { FunctionRecord, FunctionSpec } from '../contract/function-spec.ts'
import { isPlainObject } from '../contract/plain-object.ts'
import type { PullReports } from '../functions/pull-reports.ts'
import type { FunctionStore } from '../functions/store.ts'
import { parseReference, type Reference } from '../registry/reference.ts'
import type { Depth, Producer } from '../queue/producer.ts'
import { JSON_MAX_BYTES, parseJsonBody } from './json-body.ts'

export interface FunctionRouteDeps {
  readonly functions: FunctionStore
  readonly producer: Producer
  /** The digest that a reference resolves to now.  Throws RegistryError. */
  readonly resolve: (reference: Reference) => Promise<string>
  /**
   * A warning about the image's signature, if any. Throws NotSigned if the namespace requires one,
   * RegistryError.
   */
  readonly checkSignature: (
    namespace: string,
    reference: Reference,
    digest: string,
  ) => Promise<string | undefined>
  readonly pulls: Pick<PullReports, 'read' | 'forget'>
  /** Throws Overloaded until the functions are loaded. */
  readonly requireReady: () => void
}

/** Showing a function must not wait for a registry that hangs. */
const TAG_WAIT_MS = 3_000
const NO_JOBS: Depth = { waiting: 0, active: 0, delayed: 0, failed: 0 }

/** Adds the routes of functions to APP. */
export function addFunctionRoutes(
  app: FastifyInstance,
  { functions, producer, resolve, checkSignature, pulls, requireReady }: FunctionRouteDeps,
): void {
  const options = { bodyLimit: JSON_MAX_BYTES, onRequest: async () => requireReady() }

  async function deploy(
    request: FastifyRequest,
    { mustExist }: { mustExist: boolean },
  ): Promise<Record<string, unknown>> {
    const { spec, reference } = parseFunction(jsonOf(request))
    if (mustExist) existing(spec.name)
    const imageDigest = await resolve(reference)
    const warning = await checkSignature(spec.namespace ?? '', reference, imageDigest)
    const nowMs = Date.now()
    // Looked up again: the function may have been created or removed while the registry answered.
    const before = mustExist ? existing(spec.name) : functions.get(spec.name)
    const record = { spec, imageDigest, createdAtMs: before?.createdAtMs ?? nowMs, updatedAtMs: nowMs }
    await pulls.forget(imageDigest)
    await functions.put(record)
    return { ...describeFunction(record), ...defined({ warnings: warning && [warning] }) }
  }

  async function remove(name: string): Promise<void> {
    if (!(await functions.remove(name))) throw notFound(name)
    await producer.forget(name)
  }

  /** FunctionStatus of RECORDS with current counters and queue depths. */
  async function statuses(records: readonly FunctionRecord[]): Promise<Array<Record<string, unknown>>> {
    const names = records.map((record) => record.spec.name)
    const [workers, counts, depths] = await Promise.all([
      producer.workers(),
      producer.counts(names),
      producer.depths(names),
    ])
    const replicas = workers.length > 0 ? 1 : 0
    return records.map((record) => ({
      ...describeFunction(record),
      replicas,
      availableReplicas: replicas,
      invocationCount: counts.get(record.spec.name) ?? 0,
      queue: depths.get(record.spec.name) ?? NO_JOBS,
    }))
  }

  /** What RECORD's tag resolves to now.  The status is shown even if the registry does not answer. */
  async function tagNow({ spec, imageDigest }: FunctionRecord): Promise<Record<string, unknown>> {
    try {
      const late = sleep(TAG_WAIT_MS, undefined, { ref: false })
      const tagDigest = await Promise.race([resolve(parseReference(spec.image)), late])
      if (tagDigest === undefined)
        return { tagProblem: `the registry did not answer within ${TAG_WAIT_MS} ms` }
      return { tagDigest, tagMoved: tagDigest !== imageDigest }
    } catch (err) {
      if (!(err instanceof RegistryError || err instanceof ContentError)) throw err
      return { tagProblem: err.message }
    }
  }

  function existing(name: string): FunctionRecord {
    const record = functions.get(name)
    if (record === undefined) throw notFound(name)
    return record
  }

  app.post('/system/functions', options, async (request, reply) =>
    reply.code(202).send(await deploy(request, { mustExist: false })),
  )
  app.put('/system/functions', options, async (request, reply) =>
    reply.code(200).send(await deploy(request, { mustExist: true })),
  )
  app.get('/system/functions', options, async () => statuses(functions.list()))
  app.get<{ Params: { name: string }; Querystring: { tag?: unknown } }>(
    '/system/function/:name',
    options,
    async (request) => {
      const record = existing(request.params.name)
      const [status] = await statuses([record])
      return { ...status, ...(request.query.tag === 'now' && (await tagNow(record))) }
    },
  )
  app.get<{ Params: { name: string } }>('/system/function/:name/pulls', options, async (request) => {
    const { imageDigest } = existing(request.params.name)
    return { imageDigest, workers: await pulls.read(imageDigest) }
  })
  app.delete('/system/functions', options, async (request, reply) => {
    await remove(parseRemoval(jsonOf(request)))
    return reply.code(202).send()
  })
  app.delete<{ Params: { name: string } }>('/system/functions/:name', options, async (request, reply) => {
    await remove(request.params.name)
    return reply.code(202).send()
  })
}

function notFound(name: string): NotFound {
  return new NotFound(`there is no function "${name}"`, 'ERR_FUNCTION_NOT_FOUND')
}

function jsonOf(request: FastifyRequest): unknown {
  return parseJsonBody(
    request.body instanceof Uint8Array ? request.body : undefined,
    request.headers['content-encoding'],
  )
}

/** The deployment BODY and its parsed image reference.  Throws InvalidRequest with the faults of both. */
function parseFunction(body: unknown): { spec: FunctionSpec; reference: Reference } {
  const faults: Fault[] = []
  const collect = <T>(parse: () => T): T | undefined => {
    try {
      return parse()
    } catch (err) {
      if (!(err instanceof InvalidRequest)) throw err
      faults.push(...err.faults)
      return undefined
    }
  }
  const spec = collect(() => parseDeployment(body))
  const image = isPlainObject(body) ? body['image'] : undefined
  const imageIsFaulty = faults.some((fault) => fault.path === 'image')
  const reference =
    typeof image === 'string' && !imageIsFaulty ? collect(() => parseReference(image)) : undefined
  if (spec !== undefined && reference !== undefined) return { spec, reference }
  throw new InvalidRequest(faults, spec === undefined ? 'ERR_INVALID_REQUEST' : 'ERR_INVALID_REFERENCE')
}

/** OpenFaaS's body of DELETE: {"functionName": "…"}. */
function parseRemoval(body: unknown): string {
  const name = isPlainObject(body) ? body['functionName'] : undefined
  if (typeof name !== 'string')
    throw new InvalidRequest([{ path: 'functionName', problem: 'must be the name of a function' }])
  return name
}

function describeFunction(record: FunctionRecord): Record<string, unknown> {
  return {
    name: record.spec.name,
    namespace: '',
    ...describeSpec(record.spec),
    imageDigest: record.imageDigest,
    createdAt: new Date(record.createdAtMs).toISOString(),
    updatedAt: new Date(record.updatedAtMs).toISOString(),
  }
}

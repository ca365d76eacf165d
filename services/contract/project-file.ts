// Several functions in one file, and how their images are built: wherry.yaml, or OpenFaaS's stack.yaml
// unchanged. Turns either, already parsed from YAML, into deployments (bodies of POST /system/functions) and
// builds, and reports every wrong field at once. The fields of a deployment are checked later, by
// parseDeployment. Ref: https://docs.openfaas.com/reference/yaml/

import { z } from 'zod'
import { defined } from './defined.ts'
import { InvalidRequest, type Fault } from './errors.ts'
import { faultOf, INPUT } from './input.ts'
import { isPlainObject } from './plain-object.ts'

/** How a function's image is built; paths are relative to the file. */
export interface ProjectBuild {
  readonly context: string
  /** Relative to the context. */
  readonly dockerfile?: string
  readonly target?: string
  readonly args: Readonly<Record<string, string>>
  /**
   * OpenFaaS: the template (./template/LANG) that the folder is copied into; undefined if it has a
   * Dockerfile.
   */
  readonly template?: string
}

export interface ProjectFunction {
  readonly name: string
  /** The reference as written; without a registry, a built image goes to the node's registry. */
  readonly image: string
  readonly build?: ProjectBuild
  /** The body of POST /system/functions without the image. */
  readonly deployment: Readonly<Record<string, unknown>>
  /** Files with variables (OpenFaaS's environment_file), relative to the file. */
  readonly environmentFiles: readonly string[]
  /** Messages about fields of the file that have no effect. */
  readonly notes: readonly string[]
}

const FUNCTIONS_MAX = 256
const TEXT_MAX = 4096
const LIST_MAX = 256

const text = z
  .string()
  .max(TEXT_MAX, `is longer than ${TEXT_MAX} characters`)
  .regex(/^[^\0]*$/, 'contains a NUL character')
/** YAML parses `1.5` and `true` as number and boolean; an environment has only strings. */
const scalar = z
  .union([text, z.number(), z.boolean()], 'must be a string, a number, true or false')
  .transform(String)
const textMap = z.record(z.string(), scalar)
/** As in faas-cli (Go): no value is an empty string. */
const goTextMap = z.record(z.string(), z.union([scalar, z.null().transform(() => '')]))
const list = z.array(text).max(LIST_MAX, `has more than ${LIST_MAX} items`)
const functionsOf = <T extends z.ZodType>(one: T) =>
  z
    .record(z.string().min(1), one)
    .refine((all) => Object.keys(all).length > 0, 'must have at least one function')
    .refine((all) => Object.keys(all).length <= FUNCTIONS_MAX, `has more than ${FUNCTIONS_MAX} functions`)

const wherryFile = z.strictObject({
  functions: functionsOf(
    z.looseObject({
      image: text.optional(),
      build: z
        .union(
          [
            text,
            z.strictObject({
              context: text,
              dockerfile: text.optional(),
              target: text.optional(),
              args: textMap.optional(),
            }),
          ],
          'must be the path of a folder or { context, dockerfile, target, args }',
        )
        .optional(),
      envVars: textMap.nullable().optional(),
      service: z.never('must be left out; the key above is the name').optional(),
    }),
  ),
})

const openfaasFile = z.looseObject({
  functions: functionsOf(
    z.strictObject({
      lang: text.optional(),
      handler: text.optional(),
      image: text,
      fprocess: text.optional(),
      environment: goTextMap.nullable().optional(),
      environment_file: list.nullable().optional(),
      labels: goTextMap.nullable().optional(),
      annotations: goTextMap.nullable().optional(),
      limits: z.record(z.string(), scalar).nullable().optional(),
      requests: z.record(z.string(), scalar).nullable().optional(),
      secrets: list.nullable().optional(),
      constraints: list.nullable().optional(),
      readonly_root_filesystem: z.boolean().optional(),
      namespace: text.optional(),
      skip_build: z.boolean().optional(),
      build_args: goTextMap.nullable().optional(),
      build_options: list.nullable().optional(),
      build_secrets: goTextMap.nullable().optional(),
      copy: list.nullable().optional(),
      platforms: text.optional(),
    }),
  ),
})

type OpenfaasFunction = z.infer<typeof openfaasFile>['functions'][string]
type WherryFunction = z.infer<typeof wherryFile>['functions'][string]

function fromWherry(name: string, { image, build, ...fields }: WherryFunction): ProjectFunction {
  const { context, dockerfile, target, args } = typeof build === 'string' ? { context: build } : (build ?? {})
  return {
    name,
    image: image ?? name,
    ...(context !== undefined && {
      build: {
        context,
        ...defined({ dockerfile, target }),
        args: args ?? {},
      },
    }),
    deployment: { service: name, ...fields },
    environmentFiles: [],
    notes: [],
  }
}

/** Which fields of F have no effect, and why. */
function notesOf(f: OpenfaasFunction): string[] {
  return [
    ...(f.build_options?.length
      ? ['build_options is ignored: it selects packages of OpenFaaS templates']
      : []),
    ...(f.build_secrets && Object.keys(f.build_secrets).length > 0 ? ['build_secrets is ignored'] : []),
    ...(f.copy?.length ? ['copy is ignored'] : []),
    ...(f.platforms !== undefined ? ['platforms is ignored: the image is built for this machine'] : []),
  ]
}

/**
 * OpenFaaS's FPROCESS as the command of a deployment: the classic watchdog runs this program from stdin to
 * stdout, which is `stdio` without the watchdog.
 */
export function commandOf(fprocess: string): { readonly command?: readonly string[] } {
  return fprocess.trim() === '' ? {} : { command: fprocess.trim().split(/\s+/) }
}

function fromOpenfaas(name: string, f: OpenfaasFunction): ProjectFunction {
  const isBuilt = f.handler !== undefined && f.lang !== undefined && f.skip_build !== true
  const isTemplate = f.lang?.toLowerCase() !== 'dockerfile'
  return {
    name,
    image: f.image,
    ...(isBuilt && {
      build: { context: f.handler!, args: f.build_args ?? {}, ...(isTemplate && { template: f.lang! }) },
    }),
    deployment: {
      service: name,
      ...commandOf(f.fprocess ?? ''),
      ...(f.environment && { envVars: f.environment }),
      ...(f.limits && { limits: f.limits }),
      ...(f.requests && { requests: f.requests }),
      ...(f.labels && { labels: f.labels }),
      ...(f.annotations && { annotations: f.annotations }),
      ...(f.secrets?.length && { secrets: f.secrets }),
      ...(f.constraints?.length && { constraints: f.constraints }),
      ...(f.readonly_root_filesystem !== undefined && { readOnlyRootFilesystem: f.readonly_root_filesystem }),
      ...(f.namespace !== undefined && { namespace: f.namespace }),
    },
    environmentFiles: f.environment_file ?? [],
    notes: notesOf(f),
  }
}

/**
 * The functions of a file, already parsed from YAML or JSON.  Throws InvalidRequest with every wrong field.
 */
export function parseProjectFile(parsed: unknown): readonly ProjectFunction[] {
  const isOpenfaas = isPlainObject(parsed) && 'provider' in parsed
  const result = isOpenfaas ? openfaasFile.safeParse(parsed, INPUT) : wherryFile.safeParse(parsed, INPUT)
  if (!result.success) {
    const faults: Fault[] = result.error.issues.flatMap(faultOf)
    throw new InvalidRequest(
      faults.map((fault) =>
        fault.path === ''
          ? { path: '', problem: 'must have "functions:" with a name and fields for each' }
          : fault,
      ),
    )
  }
  return isOpenfaas
    ? Object.entries((result.data as z.infer<typeof openfaasFile>).functions).map(([name, f]) =>
        fromOpenfaas(name, f),
      )
    : Object.entries((result.data as z.infer<typeof wherryFile>).functions).map(([name, f]) =>
        fromWherry(name, f),
      )
}

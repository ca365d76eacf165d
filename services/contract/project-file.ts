// Several functions in one file, and how their images are built: wherry.yaml, and OpenFaaS's stack.yaml as it
// is. Turns either, already parsed from YAML, into deployments (the words of POST /system/functions) and
// builds, and names every wrong field at once. The deployment's own fields are checked by whoever takes it.
// Ref: https://docs.openfaas.com/reference/yaml/

import { z } from 'zod'
import { InvalidRequest, type Fault } from './errors.ts'
import { faultOf, INPUT } from './input.ts'

/** How a function's image is made; paths are relative to the file. */
export interface ProjectBuild {
  readonly context: string
  /** Relative to the context. */
  readonly dockerfile?: string
  readonly target?: string
  readonly args: Readonly<Record<string, string>>
  /**
   * OpenFaaS: the template (./template/LANG) that the folder is put into; undefined when it has a Dockerfile
   * itself.
   */
  readonly template?: string
}

export interface ProjectFunction {
  readonly name: string
  /** The reference as written; where it names no registry, a built image goes to the node's own. */
  readonly image: string
  readonly build?: ProjectBuild
  /** The body of POST /system/functions but for the image. */
  readonly deployment: Readonly<Record<string, unknown>>
  /** Files with variables (OpenFaaS's environment_file), relative to the file. */
  readonly environmentFiles: readonly string[]
  /** What is in the file and means nothing here, in words for people. */
  readonly notes: readonly string[]
}

const FUNCTIONS_MAX = 256
const TEXT_MAX = 4096
const LIST_MAX = 256

const text = z
  .string()
  .max(TEXT_MAX, `is longer than ${TEXT_MAX} characters`)
  .regex(/^[^\0]*$/, 'contains a NUL character')
/** YAML reads `1.5` and `true` as what they are; an environment has only text. */
const scalar = z
  .union([text, z.number(), z.boolean()], 'must be a text, a number, true or false')
  .transform(String)
const textMap = z.record(z.string(), scalar)
/** As Go reads it, for faas-cli: nothing is an empty text. */
const goTextMap = z.record(z.string(), z.union([scalar, z.null().transform(() => '')]))
const list = z.array(text).max(LIST_MAX, `has more than ${LIST_MAX} items`)
const functionsOf = <T extends z.ZodType>(one: T) =>
  z
    .record(z.string().min(1), one)
    .refine((all) => Object.keys(all).length > 0, 'has no function')
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
          'must be the path of a folder, or { context, dockerfile, target, args }',
        )
        .optional(),
      envVars: textMap.nullable().optional(),
      service: z.never('is the name above it; leave it out').optional(),
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
        ...(dockerfile !== undefined && { dockerfile }),
        ...(target !== undefined && { target }),
        args: args ?? {},
      },
    }),
    deployment: { service: name, ...fields },
    environmentFiles: [],
    notes: [],
  }
}

/** What of F is left out of the deployment, and why. */
function notesOf(f: OpenfaasFunction): string[] {
  return [
    ...(f.build_options?.length
      ? ['build_options are packages for templates of OpenFaaS and are not used']
      : []),
    ...(f.build_secrets && Object.keys(f.build_secrets).length > 0 ? ['build_secrets are not used'] : []),
    ...(f.copy?.length ? ['copy is not used'] : []),
    ...(f.platforms !== undefined ? ['platforms is not used: the image is built for this machine'] : []),
  ]
}

/**
 * OpenFaaS's FPROCESS as a deployment has it: the classic watchdog's contract is stdin to stdout by this
 * program, which is ours without the watchdog.
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

/** The functions of a file, parsed from YAML or JSON.  Throws InvalidRequest that lists every wrong field. */
export function parseProjectFile(parsed: unknown): readonly ProjectFunction[] {
  const isOpenfaas = typeof parsed === 'object' && parsed !== null && 'provider' in parsed
  const result = isOpenfaas ? openfaasFile.safeParse(parsed, INPUT) : wherryFile.safeParse(parsed, INPUT)
  if (!result.success) {
    const faults: Fault[] = result.error.issues.flatMap(faultOf)
    throw new InvalidRequest(
      faults.map((fault) =>
        fault.path === ''
          ? { path: '', problem: 'must hold "functions:" with a name and its fields for each' }
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

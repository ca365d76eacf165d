// Reads wherry.yaml or stack.yaml: substitutes variables, parses YAML, and reads environment files. The
// fields are parsed in contract/project-file.ts.

import { existsSync, readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parse } from 'yaml'
import { InvalidRequest } from '../../contract/errors.ts'
import { commandOf, parseProjectFile, type ProjectFunction } from '../../contract/project-file.ts'
import { Failure } from '../failure.ts'

/** Aliases that a document may expand to; a few lines of them can otherwise become gigabytes. */
const ALIASES_MAX = 100
const FILE_CHARACTERS_MAX = 1024 ** 2

export interface Project {
  /** Base of the file's relative paths. */
  readonly folder: string
  readonly functions: readonly ProjectFunction[]
}

/**
 * Replaces `${NAME}` and `${NAME:-default}` with values of ENV, as faas-cli and compose do; `$$` is a dollar
 * sign. Comments are left alone.
 */
export function substituteVariables(text: string, env: Readonly<Record<string, string | undefined>>): string {
  const missing = new Set<string>()
  const replaced = text.replaceAll(
    /(^|\s)#.*$|\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?-)([^}\n]*))?\}/gm,
    (all, _space, name: string | undefined, operator: string | undefined, fallback: string | undefined) => {
      if (all === '$$') return '$'
      if (name === undefined) return all
      const value = env[name]
      if (value !== undefined && (value !== '' || operator !== ':-')) return value
      if (operator === undefined) missing.add(name)
      return fallback ?? ''
    },
  )
  if (missing.size > 0)
    throw new Failure('deploy', `the file uses variables that are not set: ${[...missing].join(', ')}`, {
      remedy: 'set them, or write ${NAME:-default}',
    })
  return replaced
}

function readText(path: string): string {
  try {
    const text = readFileSync(path, 'utf8')
    if (text.length > FILE_CHARACTERS_MAX) throw new Error(`longer than ${FILE_CHARACTERS_MAX} characters`)
    return text
  } catch (err) {
    throw new Failure('deploy', `${path} cannot be read (${(err as Error).message})`, { cause: err })
  }
}

function parseProject(parsed: unknown, path: string): readonly ProjectFunction[] {
  try {
    return parseProjectFile(parsed)
  } catch (err) {
    if (!(err instanceof InvalidRequest)) throw err
    throw new Failure('deploy', `${path} is invalid`, { faults: err.faults, cause: err })
  }
}

/** TEXT of the YAML file PATH as values. */
function parseYaml(path: string, text: string): unknown {
  try {
    return parse(text, { maxAliasCount: ALIASES_MAX, prettyErrors: true })
  } catch (err) {
    throw new Failure('deploy', `${path} is not valid YAML (${(err as Error).message})`, { cause: err })
  }
}

/**
 * The functions of the YAML file PATH. Throws Failure if it is unreadable, not YAML, or invalid, with the
 * invalid fields.
 */
export function readProject(path: string, env: Readonly<Record<string, string | undefined>>): Project {
  const parsed = parseYaml(path, substituteVariables(readText(path), env))
  const folder = dirname(resolve(path))
  return {
    folder,
    functions: parseProject(parsed, path).map((f) =>
      withTemplateProcess(withEnvironmentFiles(f, folder), folder),
    ),
  }
}

/** VALUE's own field KEY, if VALUE is an object. */
function field(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null
    ? Object.getOwnPropertyDescriptor(value, key)?.value
    : undefined
}

/** Applies the fprocess of OpenFaaS's template.yml to a function without a command. */
function withTemplateProcess(f: ProjectFunction, folder: string): ProjectFunction {
  const path = resolve(folder, 'template', f.build?.template ?? '', 'template.yml')
  if (f.build?.template === undefined || f.deployment['command'] !== undefined || !existsSync(path)) return f
  const fprocess = field(parseYaml(path, readText(path)), 'fprocess')
  return typeof fprocess === 'string' ? { ...f, deployment: { ...f.deployment, ...commandOf(fprocess) } } : f
}

/**
 * OpenFaaS's environment_file: YAML with `environment:`. Later files override earlier ones and the function's
 * own environment, as with faas-cli.
 */
function withEnvironmentFiles(f: ProjectFunction, folder: string): ProjectFunction {
  if (f.environmentFiles.length === 0) return f
  const variables: Record<string, string> = Object.create(null)
  for (const file of f.environmentFiles) {
    const path = resolve(folder, file)
    const environment = field(parseYaml(path, readText(path)), 'environment')
    if (typeof environment !== 'object' || environment === null)
      throw new Failure('deploy', `${file} of ${f.name} must contain "environment:" with names and values`)
    for (const [name, value] of Object.entries(environment)) {
      if (typeof value === 'object' && value !== null)
        throw new Failure('deploy', `${file} of ${f.name}: environment.${name} must be a single value`)
      variables[name] = String(value ?? '')
    }
  }
  return {
    ...f,
    deployment: {
      ...f.deployment,
      envVars: { ...(f.deployment.envVars as object | undefined), ...variables },
    },
  }
}

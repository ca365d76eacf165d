// Deploys a project file: builds each function's image, pushes it to a registry that workers can reach, and
// deploys the function, one function after the other.

import { cpSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Writable } from 'node:stream'
import { defined } from '../../contract/defined.ts'
import { InvalidRequest } from '../../contract/errors.ts'
import { parseDeployment } from '../../contract/deployment.ts'
import type { ProjectBuild, ProjectFunction } from '../../contract/project-file.ts'
import { parseReference } from '../../registry/reference.ts'
import { buildFromFlags } from '../build/build.ts'
import { connectGateway, DATA_DEFAULT, type ConnectOptions } from '../connect.ts'
import type { Context } from '../context.ts'
import { deployOne } from '../deployment.ts'
import { Failure } from '../failure.ts'
import { pushOne } from '../image/push.ts'
import { printable } from '../terminal.ts'
import { readHolder, readState } from '../up/state.ts'
import { readProject, type Project } from './project-file.ts'

export interface ProjectFlags extends ConnectOptions {
  readonly registry?: string
  /** false with --no-build. */
  readonly build: boolean
  readonly wait: boolean
  readonly json?: boolean
}

/** The registry of the `wherry up` that runs on the data folder. */
function ownRegistry({ registry, data }: ProjectFlags, { env }: Context): string {
  if (registry !== undefined) return registry
  const folder = data ?? (env.WHERRY_DATA || DATA_DEFAULT)
  const found = readHolder(folder) === undefined ? undefined : readState(folder)?.registry
  if (found !== undefined) return found
  throw new Failure(
    'deploy',
    `no wherry up is running on ${folder}, so there is no registry for images whose names have none`,
    {
      remedy: 'give --registry HOST, or add the registry to the image’s name',
    },
  )
}

/** The full name of the image WRITTEN: "app:1" → "127.0.0.1:5000/app:1"; a name with a registry is kept. */
export function placeOf(written: string, registry: () => string): string {
  const ref = parseReference(written)
  const hasRegistry = ref.registry !== 'docker.io' || /^(?:index\.)?docker\.io\//.test(written)
  return hasRegistry ? written : `${registry()}/${written}`
}

/**
 * The context of an OpenFaaS template: ./template/LANG with the function's folder as its `function`. Throws
 * Failure.
 */
function composeTemplate(
  { folder }: Project,
  { template, context }: ProjectBuild & { readonly template: string },
): string {
  const from = resolve(folder, 'template', template)
  if (!existsSync(join(from, 'Dockerfile'))) {
    throw new Failure(
      'deploy',
      `${join('template', template, 'Dockerfile')} does not exist next to the file`,
      {
        remedy: `faas-cli template store pull ${template} fetches it; a function with its own Dockerfile has lang: dockerfile`,
      },
    )
  }
  const composed = mkdtempSync(join(tmpdir(), 'wherry-template-'))
  try {
    cpSync(from, composed, { recursive: true, verbatimSymlinks: true })
    cpSync(resolve(folder, context), join(composed, 'function'), { recursive: true, verbatimSymlinks: true })
  } catch (err) {
    rmSync(composed, { recursive: true, force: true })
    throw new Failure(
      'deploy',
      `the template ${template} and ${context} cannot be combined (${(err as Error).message})`,
      { cause: err },
    )
  }
  return composed
}

async function buildFunction(
  project: Project,
  build: ProjectBuild,
  image: string,
  flags: ProjectFlags,
  context: Context,
): Promise<void> {
  const composed =
    build.template === undefined
      ? undefined
      : composeTemplate(project, { ...build, template: build.template })
  const folder = composed ?? resolve(project.folder, build.context)
  try {
    await buildFromFlags(
      folder,
      {
        tag: [image],
        ...defined({
          file: build.dockerfile === undefined ? undefined : join(folder, build.dockerfile),
          target: build.target,
          data: flags.data,
        }),
        buildArg: Object.entries(build.args).map(([name, value]) => `${name}=${value}`),
        cache: true,
      },
      context,
    )
  } finally {
    if (composed !== undefined) rmSync(composed, { recursive: true, force: true })
  }
}

/** Rejects an invalid F of the file PATH before anything is built. */
function checkFunction(path: string, f: ProjectFunction): void {
  try {
    const { digest } = parseReference(f.image)
    if (f.build !== undefined && digest !== undefined)
      throw new InvalidRequest([
        { path: 'image', problem: `"${f.image}" has a digest, which is not known before the image is built` },
      ])
    parseDeployment({ ...f.deployment, image: f.image })
  } catch (err) {
    if (!(err instanceof InvalidRequest)) throw err
    throw new Failure('deploy', `${path} is invalid`, {
      faults: err.faults.map((fault) => ({ ...fault, path: `functions.${f.name}.${fault.path}` })),
      cause: err,
    })
  }
}

/**
 * Deploys the functions of the YAML file PATH, or only the function ONLY. Throws Failure at the first that
 * fails; earlier ones stay deployed.
 */
export async function deployProject(
  path: string,
  only: string | undefined,
  flags: ProjectFlags,
  context: Context,
): Promise<void> {
  const project = readProject(path, context.env)
  const chosen: readonly ProjectFunction[] = project.functions.filter(
    (f) => only === undefined || f.name === only,
  )
  if (chosen.length === 0)
    throw new Failure('deploy', `${path} has no function "${only}"`, {
      remedy: `it has ${project.functions.map((f) => f.name).join(', ')}`,
    })
  for (const f of chosen) checkFunction(path, f)
  const client = connectGateway('deploy', flags, context)
  // With --json, stdout has only the deployments.
  const aside: Context = flags.json
    ? { ...context, stdout: new Writable({ write: (_chunk, _encoding, done) => done() }) }
    : context
  for (const f of chosen) {
    for (const note of f.notes) context.stderr.write(`wherry: deploy: ${f.name}: ${printable(note)}\n`)
    const isBuilt = f.build !== undefined && flags.build
    const image = f.build === undefined ? f.image : placeOf(f.image, () => ownRegistry(flags, context))
    if (isBuilt) {
      await buildFunction(project, f.build, image, flags, aside)
      await pushOne([image], defined({ data: flags.data }), aside)
    }
    await deployOne(client, { ...f.deployment, image }, flags, context)
  }
}

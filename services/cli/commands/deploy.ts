// wherry deploy: sends a function described by options, a file, or both to the gateway, which validates it.

import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { defined } from '../../contract/defined.ts'
import { isPlainObject } from '../../contract/plain-object.ts'
import { addConnectOptions, connectGateway, type ConnectOptions } from '../connect.ts'
import type { Context } from '../context.ts'
import { deployOne, type Deployment } from '../deployment.ts'
import { Failure, usageFailure } from '../failure.ts'

interface Flags extends ConnectOptions {
  readonly file?: string
  readonly image?: string
  readonly namespace?: string
  readonly command?: string[]
  readonly env?: string[]
  readonly memory?: string
  readonly cpu?: string
  readonly pids?: string
  readonly timeout?: string
  readonly volume?: string[]
  readonly user?: string
  readonly workdir?: string
  readonly readOnly?: boolean
  readonly label?: string[]
  readonly registry?: string
  readonly build: boolean
  readonly wait: boolean
  readonly json?: boolean
}

const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value]

export function addDeploy(program: Command, context: Context): void {
  addConnectOptions(program.command('deploy'))
    .summary('deploy a function from an image, or replace it')
    .description(
      'Deploys the function NAME from an image, or replaces it.  The image’s tag is resolved to a digest now, and calls run that digest.',
    )
    .argument('[name]', 'name of the function ("service" in the file)')
    .argument('[args...]', 'arguments of the command, after --; they replace the image’s CMD')
    .option('--image <reference>', 'image, for example busybox, ghcr.io/me/resize:2 or 127.0.0.1:5000/echo')
    .option('--namespace <name>', 'namespace; determines whose signature the image needs')
    .option(
      '--command <word>',
      'program to run instead of the image’s ENTRYPOINT; repeat for each further word',
      collect,
    )
    .option(
      '--env <name=value>',
      'environment variable; NAME alone takes the value from the current environment; repeatable',
      collect,
    )
    .option('--memory <size>', 'memory limit, for example 64Mi (default 128Mi)')
    .option('--cpu <cpus>', 'CPU limit, for example 0.5 or 500m (default 1)')
    .option('--pids <n>', 'maximum number of processes (default 128)')
    .option('--timeout <duration>', 'time limit of a call, for example 2s (default 1m)')
    .option(
      '--volume <name:target[:ro]>',
      'named volume mounted at TARGET; it outlives the containers; repeatable',
      collect,
    )
    .option('--user <user[:group]>', 'user inside the container, instead of the image’s USER')
    .option('--workdir <path>', 'working directory, instead of the image’s')
    .option('--read-only', 'make the root file system read-only (/tmp stays writable)')
    .option('--label <name=value>', 'label of the function; repeatable', collect)
    .option(
      '-f, --file <path>',
      'JSON file with the function ("-" is stdin), overridden by options; or wherry.yaml or OpenFaaS’s stack.yaml, whose functions are built, pushed and deployed',
    )
    .option(
      '--registry <host>',
      'with a YAML file: registry for built images whose names have none (default: that of the running wherry up)',
    )
    .option('--no-build', 'with a YAML file: deploy the images that are already in their registries')
    .option('--no-wait', 'do not wait until the workers have pulled the image')
    .option('--json', 'print the deployed function as JSON')
    .addHelpText(
      'after',
      `
Examples:
  wherry deploy upper --image busybox -- tr a-z A-Z
  wherry deploy count --image 127.0.0.1:5000/tools --command /bin/sh --memory 32Mi --timeout 2s -- -c 'wc -w'
  wherry deploy notes --image busybox --volume notes:/data --env GREETING=hi -- sh -c 'cat >>/data/all; wc -l </data/all'
  wherry deploy -f function.json
  wherry deploy -f wherry.yaml           # build, push and deploy all functions in it
  wherry deploy resize -f stack.yaml     # one function of an OpenFaaS file

Exit codes: 0 deployed, 1 rejected (every invalid field is listed) or image not found, 2 wrong usage.`,
    )
    .action(async (name: string | undefined, args: string[], flags: Flags, command: Command) => {
      if (flags.file !== undefined && /\.ya?ml$/i.test(flags.file)) {
        refuseOthers(command, args)
        const { deployProject } = await import('../project/deploy-project.ts')
        await deployProject(flags.file, name, flags, context)
        return
      }
      const deployment = {
        ...(flags.file !== undefined && (await readFunction(flags.file, context))),
        ...describeFlags(name, args, flags, context),
      }
      if (deployment.service === undefined) throw usageFailure('deploy', 'the function has no name')
      if (deployment.image === undefined) throw usageFailure('deploy', '--image is missing')
      await deployOne(connectGateway('deploy', flags, context), deployment, flags, context)
    })
}

const PROJECT_OPTIONS: readonly string[] = ['file', 'gateway', 'data', 'registry', 'build', 'wait', 'json']

/** Options that describe one function make no sense with a file of several. */
function refuseOthers(command: Command, args: readonly string[]): void {
  const given = command.options.find(
    (option) =>
      command.getOptionValueSource(option.attributeName()) === 'cli' &&
      !PROJECT_OPTIONS.includes(option.attributeName()),
  )
  if (given || args.length > 0)
    throw usageFailure(
      'deploy',
      `${given ? given.long : 'arguments'} cannot be used with a YAML file; put it in the file`,
    )
}

/** The options as a deployment, with OpenFaaS's field names. */
function describeFlags(
  name: string | undefined,
  args: readonly string[],
  flags: Flags,
  { env }: Context,
): Deployment {
  const limits = defined({ memory: flags.memory, cpu: flags.cpu, pids: flags.pids })
  return {
    ...defined({ service: name, image: flags.image, namespace: flags.namespace, command: flags.command }),
    ...(args.length > 0 && { args }),
    ...(flags.env && { envVars: pairs('--env', flags.env, (key) => env[key]) }),
    ...(Object.keys(limits).length > 0 && { limits }),
    ...defined({
      timeout: flags.timeout,
      volumes: flags.volume?.map(parseVolume),
      user: flags.user,
      workingDir: flags.workdir,
    }),
    ...(flags.readOnly && { readOnlyRootFilesystem: true }),
    ...(flags.label && { labels: pairs('--label', flags.label, () => undefined) }),
  }
}

function pairs(
  option: string,
  written: readonly string[],
  lookUp: (key: string) => string | undefined,
): Record<string, string> {
  return Object.fromEntries(
    written.map((pair) => {
      const at = pair.indexOf('=')
      const key = at < 0 ? pair : pair.slice(0, at)
      const value = at < 0 ? lookUp(key) : pair.slice(at + 1)
      if (key === '' || value === undefined)
        throw usageFailure(
          'deploy',
          `${option} "${pair}" must be NAME=VALUE${option === '--env' && key !== '' ? `: the environment has no variable ${key}` : ''}`,
        )
      return [key, value]
    }),
  )
}

function parseVolume(written: string): { name: string; target: string; readonly?: true } {
  const match = /^([^:]+):(\/[^:]*)(?::(ro|rw))?$/.exec(written)
  if (!match) throw usageFailure('deploy', `--volume "${written}" must be NAME:TARGET or NAME:TARGET:ro`)
  return { name: match[1]!, target: match[2]!, ...(match[3] === 'ro' && { readonly: true }) }
}

async function readFunction(path: string, { stdin }: Context): Promise<Deployment> {
  let parsed: unknown
  try {
    const text =
      path === '-'
        ? Buffer.concat((await stdin.toArray()) as Buffer[]).toString('utf8')
        : readFileSync(path, 'utf8')
    parsed = JSON.parse(text)
  } catch (err) {
    throw new Failure('deploy', `${path} cannot be read as JSON (${(err as Error).message})`, { cause: err })
  }
  if (!isPlainObject(parsed))
    throw new Failure('deploy', `${path} must contain a JSON object that describes a function`)
  return parsed // the gateway checks every field
}

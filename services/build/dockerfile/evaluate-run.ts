// RUN as a step: the command with its shell, heredocs, environment and mounts.

import { posix } from 'node:path'
import { quoted } from './build-failure.ts'
import { PROXY_ARGS, resolveFrom } from './build-plan.ts'
import { absolute, valueIn, withShell, type StageState } from './stage-state.ts'
import { heredocText, parseHeredocMark } from './heredoc.ts'
import type { RunInstruction } from './instructions.ts'
import { parseMount } from './mounts.ts'
import type { RunStep, StepMount } from './steps.ts'

/** Longest argument of execve(2) (MAX_ARG_STRLEN, including NUL). */
const ARGUMENT_BYTES_MAX = 128 * 1024 - 1
/** Where BuildKit puts scripts that start with "#!". */
const SCRIPT_DIR = '/dev/pipes'

/**
 * The program. A heredoc alone is the script, which runs from a file if it starts with "#!". With a command
 * before it, the shell gets the lines unchanged.
 */
function programOf(state: StageState, instruction: RunInstruction): Pick<RunStep, 'argv' | 'script'> {
  const { command, heredocs } = instruction
  const [first] = heredocs
  if (first === undefined || command.form === 'exec') return { argv: withShell(state.config, command) }
  if (parseHeredocMark(command.script) === undefined) {
    const bodies = heredocs.map(({ content, name }) => `\n${content}${name}`)
    return { argv: withShell(state.config, { form: 'shell', script: command.script + bodies.join('') }) }
  }
  const content = heredocText(first)
  if (!content.startsWith('#!')) return { argv: withShell(state.config, { form: 'shell', script: content }) }
  const path = `${SCRIPT_DIR}/${/^[\w.-]{1,100}$/.test(first.name) && !/^\.+$/.test(first.name) ? first.name : 'script'}`
  return { argv: [path], script: { path, content } }
}

function mountsOf(state: StageState, instruction: RunInstruction): StepMount[] {
  return instruction.mounts.map(({ text }): StepMount => {
    const mount = parseMount(text, (value) => valueIn(state, instruction, value))
    if ('problem' in mount) throw instruction.fault(mount.problem, mount)
    if (mount.type === 'secret') {
      const { target, ...secret } = mount
      return { ...secret, ...(target !== undefined && { targetPath: absolute(state.config, target) }) }
    }
    const { target, ...rest } = mount
    const targetPath = absolute(state.config, target)
    if (targetPath === '/')
      throw instruction.fault('cannot mount on "/"', { mark: 'mount', hint: 'write target=/path' })
    if (rest.type === 'tmpfs') return { ...rest, targetPath }
    const { from: name, ...sourced } = rest
    const source = posix.normalize(posix.join('/', rest.source))
    if (sourced.type === 'cache')
      return {
        ...sourced,
        source,
        targetPath,
        from:
          name === undefined
            ? { kind: 'scratch' }
            : resolveFrom(state.plan.stages, name, state.index, instruction),
      }
    return {
      ...sourced,
      source,
      targetPath,
      from:
        name === undefined
          ? { kind: 'context' }
          : resolveFrom(state.plan.stages, name, state.index, instruction),
    }
  })
}

/** The part of the step that is specific to RUN. */
export function runStep(
  state: StageState,
  instruction: RunInstruction,
): Pick<
  RunStep,
  'kind' | 'createdBy' | 'argv' | 'script' | 'env' | 'proxyEnv' | 'workingDir' | 'user' | 'mounts' | 'network'
> {
  const { config, args, plan } = state
  const program = programOf(state, instruction)
  if (program.argv.length === 0) throw instruction.fault('RUN needs a command', { mark: 'RUN' })
  const long = program.argv.find((argument) => Buffer.byteLength(argument) > ARGUMENT_BYTES_MAX)
  if (long !== undefined)
    throw instruction.fault(`the command ${quoted(long)} is longer than ${ARGUMENT_BYTES_MAX} bytes`, {
      hint: 'start the heredoc with #!/bin/sh, so that it runs from a file',
    })
  const visible = [...args]
    .filter(([name]) => !state.env.has(name))
    .map(([name, value]) => `${name}=${value}`)
  plan.spend(instruction, config.env.length + visible.length)
  const proxies = PROXY_ARGS.flatMap((name) => {
    const value = plan.options.buildArgs.get(name)
    return value === undefined || state.env.has(name) || args.has(name) ? [] : `${name}=${value}`
  })
  const command =
    program.script === undefined ? program.argv.join(' ') : instruction.text.slice('RUN '.length)
  return {
    kind: 'run',
    ...program,
    env: [...visible, ...config.env],
    proxyEnv: proxies,
    workingDir: config.workingDir || '/',
    user: config.user,
    mounts: mountsOf(state, instruction),
    network: instruction.network,
    createdBy: `RUN ${visible.length > 0 ? `|${visible.length} ${visible.join(' ')} ` : ''}${command}`,
  }
}

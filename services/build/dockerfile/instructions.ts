// The syntax tree as typed instructions, before variables have values (Dockerfile reference). All errors that
// do not depend on values are found here, in all stages, including those that are not built.

import { defined } from '../../contract/defined.ts'
import type { BuildWarning, FaultFacts, Place } from './build-failure.ts'
import { quoted } from './build-failure.ts'
import { parseHealthcheck, type Healthcheck } from './healthcheck.ts'
import { parseHeredocMark, type Heredoc } from './heredoc.ts'
import type { LineReader } from './lines.ts'
import { mountFrom, MOUNTS_MAX, parseMount } from './mounts.ts'
import { parseNode, type Node } from './nodes.ts'
import {
  looksLikeJson,
  parseJsonArray,
  parsePairs,
  splitFields,
  splitPair,
  splitWords,
  type Pair,
} from './words.ts'

/** JSON form, or text for a shell. */
export type Command =
  | { readonly form: 'exec'; readonly argv: readonly string[] }
  | { readonly form: 'shell'; readonly script: string }

interface Written extends Place {
  /** The logical line. */
  readonly text: string
  readonly escape: string
  fault(problem: string, facts?: FaultFacts): Error
}

export interface FromInstruction extends Written {
  readonly kind: 'from'
  readonly base: string
  readonly stageName?: string
  readonly platform?: string
}

export interface RunInstruction extends Written {
  readonly kind: 'run'
  readonly command: Command
  readonly heredocs: readonly Heredoc[]
  /** The values of --mount, and the names in their "from". */
  readonly mounts: ReadonlyArray<{ readonly text: string; readonly from?: string }>
  /** "default" is the network of the build. */
  readonly network: 'default' | 'none' | 'host'
}

export interface CopyInstruction extends Written {
  readonly kind: 'copy' | 'add'
  readonly sources: readonly string[]
  readonly heredocs: readonly Heredoc[]
  readonly destination: string
  readonly from?: string
  readonly chown?: string
  readonly chmod?: string
  readonly checksum?: string
  readonly isLinked: boolean
  readonly keepsParents: boolean
  /** For ADD; undefined is "local archives only". */
  readonly unpack?: boolean
  readonly excludes: readonly string[]
}

export interface ArgInstruction extends Written {
  readonly kind: 'arg'
  readonly args: ReadonlyArray<{ readonly name: string; readonly value?: string }>
}
export interface PairsInstruction extends Written {
  readonly kind: 'env' | 'label'
  readonly pairs: readonly Pair[]
}
export interface CommandInstruction extends Written {
  readonly kind: 'cmd' | 'entrypoint'
  readonly command: Command
}
export interface WordInstruction extends Written {
  readonly kind: 'workdir' | 'user' | 'stopsignal' | 'maintainer'
  readonly word: string
}
export interface ListInstruction extends Written {
  readonly kind: 'expose' | 'volume' | 'shell'
  readonly words: readonly string[]
}
export interface HealthcheckInstruction extends Written {
  readonly kind: 'healthcheck'
  readonly healthcheck: Healthcheck
}
/** TRIGGER is the text for the image's config; INNER is the parsed instruction. */
export interface OnbuildInstruction extends Written {
  readonly kind: 'onbuild'
  readonly trigger: string
  readonly inner: Instruction
}

export type Instruction =
  | FromInstruction
  | RunInstruction
  | CopyInstruction
  | ArgInstruction
  | PairsInstruction
  | CommandInstruction
  | WordInstruction
  | ListInstruction
  | HealthcheckInstruction
  | OnbuildInstruction

/** A text that is expensive to compute is a function, because warnings can be skipped. */
export type Warn = (warning: Omit<BuildWarning, 'text'> & { readonly text: string | (() => string) }) => void

const STAGE_NAME = /^[a-z][a-z0-9._-]*$/
const SECRET_NAME = /(?:^|_)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)/i
const NO_SECRET_NAME = /(?:^|_)(?:public|file|version)(?:_|$)/i

/** NODE's arguments as a JSON array, or undefined if they are in shell form. */
function jsonArguments(node: Node, warn: Warn): string[] | undefined {
  const words = parseJsonArray(node.rest)
  if (words === 'notStrings')
    throw node.fault('the JSON array must contain only strings', {
      mark: node.rest,
      hint: 'put each argument in double quotes',
    })
  if (words === undefined && looksLikeJson(node.rest)) {
    warn({
      source: node.source,
      location: node.location,
      rule: 'JSONArgsRecommended',
      text: `${node.keyword} looks like a JSON array but is not valid JSON, so it is read as plain text; JSON needs double quotes and no trailing comma`,
    })
  }
  return words
}

function commandOf(node: Node, warn: Warn): Command {
  const argv = jsonArguments(node, warn)
  if (argv !== undefined) return { form: 'exec', argv }
  if (node.rest === '')
    throw node.fault(`${node.keyword} needs an argument`, {
      mark: node.written,
      ...(node.keyword !== 'RUN' && { hint: `${node.keyword} [] removes that of the base image` }),
    })
  return { form: 'shell', script: node.rest }
}

function singleWord(node: Node): string {
  if (node.rest === '') throw node.fault(`${node.keyword} needs an argument`, { mark: node.written })
  return node.rest
}

function fromOf(node: Node, written: Written): FromInstruction {
  const [base, as, name, ...more] = splitFields(node.rest)
  if (base === undefined)
    throw node.fault('FROM needs an image', { mark: node.written, hint: 'FROM scratch starts with no files' })
  if (as !== undefined && (as.toLowerCase() !== 'as' || name === undefined || more.length > 0)) {
    throw node.fault('FROM has more than one image', {
      mark: as,
      hint: 'write FROM image, or FROM image AS name',
    })
  }
  const stageName = name?.toLowerCase()
  if (stageName !== undefined && !STAGE_NAME.test(stageName)) {
    throw node.fault(`${quoted(name!)} is not a valid stage name`, {
      mark: name,
      hint: 'it must start with a letter and contain only letters, digits, "-", "_" and "."',
    })
  }
  const platform = node.flags.text('platform')
  return {
    kind: 'from',
    ...written,
    base,
    ...defined({ stageName, platform }),
  }
}

/** The stages to build must be known before variables have values. */
function checkFrom(node: Node, from: string): void {
  if (/\$./.test(from))
    throw node.fault('variables are not allowed in "from"', {
      mark: from,
      hint: 'use them in FROM … AS, and name that stage',
    })
}

function runOf(node: Node, written: Written, warn: Warn): RunInstruction {
  const network = (node.flags.text('network') ?? 'default').toLowerCase()
  if (network !== 'default' && network !== 'none' && network !== 'host')
    throw node.fault(`--network must be default, none or host, not ${quoted(network)}`, { mark: '--network' })
  const security = node.flags.text('security') ?? 'sandbox'
  if (security !== 'sandbox')
    throw node.fault(`--security=${security} is not supported`, {
      mark: '--security',
      hint: 'a RUN cannot have more privileges than its container',
    })
  const mounts = node.flags.list('mount')
  if (mounts.length > MOUNTS_MAX)
    throw node.fault(`there are ${mounts.length} mounts; the limit is ${MOUNTS_MAX}`)
  for (const text of mounts.filter((text) => !text.includes('$'))) {
    const mount = parseMount(text, (value) => value)
    if ('problem' in mount) throw node.fault(mount.problem, mount)
  }
  return {
    kind: 'run',
    ...written,
    command: commandOf(node, warn),
    heredocs: node.heredocs,
    network,
    mounts: mounts.map((text) => {
      const from = mountFrom(text)
      if (from !== undefined) checkFrom(node, from)
      return { text, ...defined({ from }) }
    }),
  }
}

function copyOf(node: Node, written: Written, warn: Warn): CopyInstruction {
  const words = jsonArguments(node, warn) ?? splitFields(node.rest)
  const destination = words.at(-1)
  if (destination === undefined || words.length < 2) {
    throw node.fault(`${node.keyword} needs a source and a destination`, {
      mark: node.written,
      hint: `write ${node.keyword} ${destination ?? 'source'} ${destination === undefined ? 'destination' : './'}`,
    })
  }
  if (node.heredocs.length > 0 && parseHeredocMark(destination) !== undefined)
    throw node.fault('the destination is a heredoc', {
      mark: destination,
      hint: 'put the path last: COPY <<EOF /path',
    })
  const sources = words
    .slice(0, -1)
    .filter((word) => node.heredocs.length === 0 || parseHeredocMark(word) === undefined)
  const badName = node.heredocs.find(({ name }) => name.includes('/') || name === '.' || name === '..')
  if (badName !== undefined)
    throw node.fault(`the heredoc ${quoted(badName.name)} would be a file of that name, which is invalid`, {
      mark: badName.name,
    })
  const from = node.flags.text('from')
  if (from !== undefined) checkFrom(node, from)
  if (from !== undefined && node.heredocs.length > 0 && sources.length === 0)
    throw node.fault('a heredoc cannot be combined with --from', { mark: '--from' })
  const optional = {
    chown: node.flags.text('chown'),
    chmod: node.flags.text('chmod'),
    checksum: node.flags.text('checksum'),
    from,
  }
  const unpack = node.flags.isOn('unpack')
  return {
    kind: node.keyword === 'ADD' ? 'add' : 'copy',
    ...written,
    sources,
    heredocs: node.heredocs,
    destination,
    ...Object.fromEntries(Object.entries(optional).filter(([, value]) => value !== undefined)),
    isLinked: node.flags.isOn('link') ?? false,
    keepsParents: node.flags.isOn('parents') ?? false,
    ...defined({ unpack }),
    excludes: node.flags.list('exclude'),
  }
}

function warnOfSecret(node: Node, name: string, warn: Warn): void {
  if (!SECRET_NAME.test(name) || NO_SECRET_NAME.test(name)) return
  warn({
    source: node.source,
    location: node.location,
    rule: 'SecretsUsedInArgOrEnv',
    text: `${node.keyword} ${quoted(name)} looks like a secret, which anyone with the image can read; use RUN --mount=type=secret`,
  })
}

function argOf(node: Node, written: Written, warn: Warn): ArgInstruction {
  const args = splitWords(singleWord(node), node.escape).map(splitPair)
  for (const { name } of args) {
    if (name === '') throw node.fault('ARG has a value without a name', { mark: node.rest })
    warnOfSecret(node, name, warn)
  }
  return {
    kind: 'arg',
    ...written,
    args: args.map(({ name, value }) => ({ name, ...defined({ value }) })),
  }
}

function pairsOf(node: Node, written: Written, warn: Warn): PairsInstruction {
  const parsed = parsePairs(singleWord(node), node.escape)
  if (typeof parsed === 'string') throw node.fault(parsed, { mark: node.rest })
  if (parsed.isOldForm)
    warn({
      source: node.source,
      location: node.location,
      rule: 'LegacyKeyValueFormat',
      text: `write ${node.keyword} name=value`,
    })
  for (const { name } of parsed.pairs) {
    if (name === '') throw node.fault(`${node.keyword} has a value without a name`, { mark: node.rest })
    if (node.keyword === 'ENV') warnOfSecret(node, name, warn)
  }
  return { kind: node.keyword === 'ENV' ? 'env' : 'label', ...written, pairs: parsed.pairs }
}

function listOf(node: Node, written: Written, warn: Warn): ListInstruction {
  singleWord(node)
  if (node.keyword === 'EXPOSE') return { kind: 'expose', ...written, words: splitFields(node.rest) }
  const words = jsonArguments(node, warn)
  if (node.keyword === 'VOLUME') {
    const volumes = words ?? splitFields(node.rest)
    if (volumes.length === 0 || volumes.some((volume) => volume.trim() === ''))
      throw node.fault('VOLUME needs a path', { mark: node.rest })
    return { kind: 'volume', ...written, words: volumes.map((volume) => volume.trim()) }
  }
  if (words === undefined)
    throw node.fault('SHELL needs a JSON array', {
      mark: node.rest,
      hint: 'with double quotes: SHELL ["/bin/sh", "-c"]',
    })
  if (words.length === 0) throw node.fault('SHELL needs a program', { mark: node.rest })
  return { kind: 'shell', ...written, words }
}

function onbuildOf(reader: LineReader, node: Node, written: Written, warn: Warn): OnbuildInstruction {
  const inner = parseNode(
    reader,
    { text: singleWord(node), location: node.location },
    { place: node, heredocs: node.heredocs },
  )
  if (inner.keyword === 'ONBUILD' || inner.keyword === 'FROM' || inner.keyword === 'MAINTAINER')
    throw node.fault(`ONBUILD ${inner.keyword} is not allowed`, { mark: inner.written })
  const bodies = node.heredocs.map(({ content, name }) => `\n${content}${name}`)
  return {
    kind: 'onbuild',
    ...written,
    trigger: node.rest + bodies.join(''),
    inner: parseInstruction(reader, inner, warn),
  }
}

/** NODE as a typed instruction.  Throws InvalidRequest ERR_INVALID_DOCKERFILE. */
export function parseInstruction(reader: LineReader, node: Node, warn: Warn): Instruction {
  const { source, location, text, escape, fault } = node
  const written: Written = { source, location, text, escape, fault }
  switch (node.keyword) {
    case 'FROM':
      return fromOf(node, written)
    case 'RUN':
      return runOf(node, written, warn)
    case 'COPY':
    case 'ADD':
      return copyOf(node, written, warn)
    case 'ARG':
      return argOf(node, written, warn)
    case 'ENV':
    case 'LABEL':
      return pairsOf(node, written, warn)
    case 'CMD':
      return { kind: 'cmd', ...written, command: commandOf(node, warn) }
    case 'ENTRYPOINT':
      return { kind: 'entrypoint', ...written, command: commandOf(node, warn) }
    case 'WORKDIR':
      return { kind: 'workdir', ...written, word: singleWord(node) }
    case 'USER':
      return { kind: 'user', ...written, word: singleWord(node) }
    case 'STOPSIGNAL':
      return { kind: 'stopsignal', ...written, word: singleWord(node) }
    case 'EXPOSE':
    case 'VOLUME':
    case 'SHELL':
      return listOf(node, written, warn)
    case 'HEALTHCHECK':
      return {
        kind: 'healthcheck',
        ...written,
        healthcheck: parseHealthcheck(node, (jsonText) => jsonArguments({ ...node, rest: jsonText }, warn)),
      }
    case 'ONBUILD':
      return onbuildOf(reader, node, written, warn)
    case 'MAINTAINER':
      warn({
        source,
        location,
        rule: 'MaintainerDeprecated',
        text: 'MAINTAINER is deprecated; use LABEL org.opencontainers.image.authors=…',
      })
      return { kind: 'maintainer', ...written, word: singleWord(node) }
  }
}

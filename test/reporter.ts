// A tap reporter. It prints one line per file, each failure in full, a list of the failures, and finally
// "N passed, N failed, N skipped". A test is an innermost named block, or an assertion outside any block.
// Stricter than tap: a file that crashes or asserts nothing fails, and under CI so does a tier (a folder in
// test/) in which every test was skipped.

import { Transform, type TransformCallback } from 'node:stream'

interface Block {
  readonly name: string
  assertions: number
  counted: number
  failed: number
}
interface Counts {
  passed: number
  failed: number
  skipped: number
}

const INDENT = 4
/** Diagnostic lines shown per failure. */
const DIAGNOSTIC_LINES_MAX = 120
/** Failures listed after the tiers. */
const TITLES_MAX = 20
const TITLE_LENGTH_MAX = 160
const RESULT = /^(not )?ok \d+(?: - (.*?))?(?: # (SKIP|TODO)\b ?(.*?)| # time=[\d.]+ms)*\s*\{?$/i
/** Diagnostic fields that are not shown: how the file was run, its open handles, the surrounding source. */
const DULL = new Set([
  'stdio',
  'cwd',
  'externalID',
  'command',
  'args',
  'signal',
  'isToplevel',
  'typeName',
  'columnNumber',
  'functionName',
  'methodName',
  'source',
  'handles',
])

const indentOf = (line: string): number => line.length - line.trimStart().length
const tierOf = (file: string): string => /^test\/([^/]+)\/./.exec(file)?.[1] ?? 'other'

export default class Reporter extends Transform {
  readonly total: Counts = { passed: 0, failed: 0, skipped: 0 }
  readonly #tiers = new Map<string, Counts>()
  /** The lines of each failure. */
  readonly #failures: string[][] = []
  readonly #ci: boolean
  readonly #fail: () => void
  #rest = ''
  /** Open blocks; the first is the file. */
  #blocks: Block[] = []
  #file: Counts = { passed: 0, failed: 0, skipped: 0 }
  #notes: string[] = []
  /** Lines of the failure that the next diagnostics belong to. */
  #diagnostics: string[] | undefined
  /** Indentation of the current diagnostics; -1 outside. */
  #inYaml = -1
  /** Indentation of the field that is being skipped; -1 outside. */
  #dull = -1

  constructor({
    ci = process.env.CI === 'true',
    fail = () => {
      process.on('exit', () => {
        process.exitCode = 1
      })
    },
  } = {}) {
    super({ decodeStrings: false, encoding: 'utf8' })
    this.#ci = ci
    this.#fail = fail
  }

  override _transform(chunk: string | Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const lines = (this.#rest + String(chunk)).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines) this.#line(line)
    done()
  }

  override _flush(done: TransformCallback): void {
    if (this.#rest !== '') this.#line(this.#rest)
    if (this.#failures.length > 0)
      this.push(`\n${this.#failures.map((lines) => `✗ ${lines.join('\n')}\n`).join('\n')}`)
    this.push('\n')
    for (const [tier, c] of this.#tiers) {
      const all = c.passed + c.failed === 0 && c.skipped > 0
      this.push(`tier ${tier}: ${describe(c)}${all ? ' (none ran)' : ''}\n`)
      if (!all || !this.#ci) continue
      this.total.failed += 1
      this.push(`✗ tier ${tier}: every test was skipped, which is a failure under CI\n`)
    }
    if (this.total.passed + this.total.failed + this.total.skipped === 0) {
      this.total.failed = 1
      this.push('✗ no test ran\n')
    }
    if (this.total.failed > 0) this.#fail()
    // List the failures again for readers who see only the end of the log.
    if (this.#failures.length > 1)
      for (const [title] of this.#failures.slice(0, TITLES_MAX))
        this.push(`failed: ${title!.slice(0, TITLE_LENGTH_MAX)}\n`)
    this.push(`${describe(this.total)}\n`)
    done()
  }

  #line(line: string): void {
    if (this.#yaml(line)) return
    const depth = indentOf(line) / INDENT
    const text = line.trim()
    const opened = /^# Subtest: (.*)$/.exec(text)
    if (opened && Number.isInteger(depth) && depth <= this.#blocks.length) {
      this.#blocks.length = depth
      this.#blocks.push({ name: opened[1]!, assertions: 0, counted: 0, failed: 0 })
      return
    }
    if (text.startsWith('Bail out!') && depth === 0) return this.#bail(text)
    const result = RESULT.exec(text)
    if (result === null || !Number.isInteger(depth) || depth > this.#blocks.length) return
    const [, not, name = '', directive = '', reason = ''] = result
    const parsed = {
      ok: not === undefined || /TODO/i.test(directive),
      name,
      skipped: /SKIP/i.test(directive) || /TODO/i.test(directive),
      reason,
    }
    const block = depth < this.#blocks.length ? this.#blocks.pop() : undefined
    if (depth === 0) this.#fileEnds(block, parsed)
    else this.#result(block, parsed)
  }

  /** Read diagnostics between "---" and "..."; keep those of failures. */
  #yaml(line: string): boolean {
    if (this.#inYaml < 0) {
      // Diagnostics are indented by two more columns than their result. Test output may contain "---" too.
      if (line.trim() === '---' && indentOf(line) % INDENT === INDENT / 2) this.#inYaml = indentOf(line)
      this.#dull = -1
      return this.#inYaml >= 0
    }
    const kept = this.#diagnostics
    if (line.trim() === '...' && indentOf(line) === this.#inYaml) {
      this.#inYaml = -1
      if (kept && kept.length > DIAGNOSTIC_LINES_MAX) kept.length = DIAGNOSTIC_LINES_MAX
      this.#diagnostics = undefined
      return true
    }
    const key = /^ *(\w+):/.exec(line)?.[1] ?? ''
    if (line.trim() !== '' && indentOf(line) <= this.#dull) this.#dull = -1
    if (this.#dull < 0 && DULL.has(key) && indentOf(line) <= this.#inYaml + 2) this.#dull = indentOf(line)
    if (this.#dull < 0) kept?.push(`    ${line.slice(this.#inYaml)}`.trimEnd())
    return true
  }

  #result(
    block: Block | undefined,
    { ok, name, skipped, reason }: { ok: boolean; name: string; skipped: boolean; reason: string },
  ): void {
    const parent = this.#blocks.at(-1)!
    parent.assertions += 1 + (block?.assertions ?? 0)
    // Do not count a block whose inner blocks were counted, nor an assertion inside a named block.
    const isFrame = block !== undefined && block.counted > 0 && (ok || block.failed > 0)
    const isPart = block === undefined && this.#blocks.length > 1 && !skipped
    if (!ok && block === undefined) this.#failure(name)
    if (isFrame) {
      parent.counted += block.counted
      parent.failed += block.failed
      return
    }
    if (isPart) return
    if (!ok && block?.assertions === 0) this.#failure(name)
    if (skipped) this.#notes.push(`  - skipped: ${this.#path(name)}: ${reason || 'no reason given'}`)
    this.#file[skipped ? 'skipped' : ok ? 'passed' : 'failed'] += 1
    parent.counted += 1
    parent.failed += ok ? 0 : 1
  }

  #fileEnds(
    block: Block | undefined,
    { ok, name, skipped, reason }: { ok: boolean; name: string; skipped: boolean; reason: string },
  ): void {
    const file = block?.name ?? name
    const counts = this.#file
    this.#file = { passed: 0, failed: 0, skipped: 0 }
    const empty = block === undefined || block.assertions === 0
    if (empty && skipped && reason !== '' && reason !== 'no tests found') {
      counts.skipped += 1
      this.#notes.push(`  - skipped: the whole file: ${reason}`)
    } else if (ok && empty) {
      counts.failed += 1
      this.#failures.push([`${file}: asserts nothing`])
    } else if (!ok && counts.failed === 0) {
      counts.failed += 1
      this.#blocks = [{ name: file, assertions: 0, counted: 0, failed: 0 }]
      this.#failure(name === file ? 'the file crashed or was killed (see its output above)' : name)
    }
    this.#blocks = []
    this.push(`${counts.failed > 0 ? '✗' : counts.passed > 0 ? '✓' : '-'} ${file}: ${describe(counts)}\n`)
    for (const note of this.#notes.splice(0)) this.push(`${note}\n`)
    const tier = this.#tiers.get(tierOf(file)) ?? { passed: 0, failed: 0, skipped: 0 }
    this.#tiers.set(tierOf(file), tier)
    for (const key of ['passed', 'failed', 'skipped'] as const) {
      tier[key] += counts[key]
      this.total[key] += counts[key]
    }
  }

  #bail(text: string): void {
    this.total.failed += 1
    this.#failures.push([`${this.#blocks[0]?.name ?? 'the run'}: ${text}`])
  }

  #path(name: string): string {
    return [...this.#blocks.slice(1).map((b) => b.name), name].join(' > ')
  }

  /** Record a failure in the innermost open block; its diagnostics follow on the next lines. */
  #failure(name: string): void {
    this.#diagnostics = [`${this.#blocks[0]?.name ?? ''} > ${this.#path(name)}`]
    this.#failures.push(this.#diagnostics)
  }
}

function describe({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`
}

// Compares the docs with the code: a README per room; every setting, error, outcome, metric and field; links,
// files, commands and test names that exist; and limits on the size of files, functions and lines.
// Most checks read text. The only code they load is tables (settings, outcomes, the function spec).

import { existsSync, globSync, readFileSync } from 'node:fs'
import { basename, dirname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { describeSpec, parseDeployment } from '../../services/contract/deployment.ts'
import { DEFAULT_LIMITS } from '../../services/contract/function-spec.ts'
import { OUTCOME_RULES, OUTCOMES } from '../../services/contract/outcome.ts'
import { gatewaySettings } from '../../services/gateway/config.ts'
import { ENV_NAMES, sharedSettings, type Setting, type Table } from '../../services/platform/config.ts'
import { workerSettings } from '../../services/worker/config.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const FILE_LINES_MAX = 400
const FUNCTION_LINES_MAX = 70
const COLUMNS_MAX = 110
const IGNORED = /(?:^|\/)(?:node_modules|\.tap|\.git)\/|^build\//

const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8')
const find = (...patterns: string[]): string[] =>
  globSync(patterns, { cwd: ROOT, exclude: ['node_modules', 'build/**', '.tap', '.git'] })
    .filter((path) => !IGNORED.test(path))
    .sort()

const docs = find('*.md', '*/**/*.md')
const code = find('services/**/*.ts').map((path) => ({ path, text: read(path) }))
const named = (pattern: RegExp, text: string): string[] =>
  [...new Set([...text.matchAll(pattern)].map((match) => match[1]!))].sort()
const namedInCode = (pattern: RegExp): string[] =>
  [...new Set(code.flatMap(({ text }) => named(pattern, text)))].sort()

/** The text in backticks and code blocks of a document, which must be exact. */
function exactText(markdown: string): string {
  const blocks = [...markdown.matchAll(/^( *)```[^\n]*\n([\s\S]*?)^\1```/gm)].map((match) => match[2]!)
  const indented = markdown.split('\n').filter((line) => /^ {4}\S/.test(line))
  const spans = [...markdown.replaceAll(/^( *)```[\s\S]*?^\1```/gm, '').matchAll(/`([^`\n]+)`/g)].map(
    (match) => match[1]!,
  )
  return [...blocks, ...indented, ...spans].join('\n')
}

t.test('the standard documents exist, and each room has a README that names its door', async (t) => {
  for (const path of [
    'README.md',
    'ARCHITECTURE.md',
    'CONTRIBUTING.md',
    'SECURITY.md',
    'CHANGELOG.md',
    'LICENSE',
    'native/README.md',
    'test/README.md',
  ])
    t.ok(existsSync(join(ROOT, path)), path)
  for (const path of find('services/*').filter((path) => find(`${path}/**/*.ts`).length > 0)) {
    const readme = `${path}/README.md`
    t.ok(existsSync(join(ROOT, readme)), readme)
    if (existsSync(join(ROOT, readme)))
      t.match(read(readme), /\bdoors?\b/i, `${readme} lists the exports that other rooms may use`)
    t.ok(read('ARCHITECTURE.md').includes(`${basename(path)}/`), `ARCHITECTURE.md mentions ${path}`)
  }
})

/** Defaults that depend on the machine, as the document describes them. */
const MACHINE_DEFAULTS: Readonly<Record<string, string>> = {
  WHERRY_NATIVE: '`build/native` of the checkout',
  WHERRY_WORKER_NAME: 'the host’s name',
  WHERRY_WORKER_SLOTS: '4 per CPU, at most 1024',
}

function rowOf({ env, flag, format, expected, about, default: value }: Setting<unknown>): string {
  return `| \`${env}\` | \`--${flag}\` | ${MACHINE_DEFAULTS[env] ?? `\`${format(value)}\``} | ${about} | ${expected} |`
}

t.test('docs/configuration.md lists exactly the settings in the tables of the code', async (t) => {
  const text = read('docs/configuration.md')
  const own = (table: Table): Array<Setting<unknown>> =>
    Object.values(table).filter(
      (setting) => !Object.values(sharedSettings).some((shared) => shared.env === setting.env),
    )
  const settings = [
    ...Object.values<Setting<unknown>>(sharedSettings),
    ...own(gatewaySettings),
    ...own(workerSettings),
  ]
  for (const setting of settings) t.ok(text.includes(rowOf(setting)), `expected row: ${rowOf(setting)}`)
  t.same(named(/^\| `(WHERRY_[A-Z_]+)`/gm, text), [...ENV_NAMES].sort(), 'one row per environment variable')
})

t.test('the docs name exactly the WHERRY_ variables of the code', async (t) => {
  const pattern = /\b(WHERRY_[A-Z_]+[A-Z])\b/g
  const inDocs = docs.flatMap((path) => named(pattern, read(path)))
  const inCode = namedInCode(pattern)
  const around = find('infra/**/*', 'test/**/*.ts', 'Makefile')
    .filter((path) => /\.\w+$|file$/.test(path))
    .flatMap((path) => named(pattern, read(path)))
  t.same(
    inCode.filter((name) => !inDocs.includes(name)),
    [],
    'in the code, but not in the docs',
  )
  t.same(
    inDocs.filter((name) => !inCode.includes(name) && !around.includes(name)),
    [],
    'in the docs, but not in the code',
  )
})

t.test('docs/errors.md lists every error code and outcome', async (t) => {
  /** Node's own error codes. */
  const foreign = /^ERR_(?:HTTP|STREAM)_/
  const text = read('docs/errors.md')
  const codes = namedInCode(/'(ERR_[A-Z_]+)'/g).filter((name) => !foreign.test(name))
  const outcomes = OUTCOMES.filter((outcome) => outcome !== 'ok').map(
    (outcome) => `ERR_FUNCTION_${outcome.toUpperCase()}`,
  )
  t.same(named(/`(ERR_[A-Z_]+)`/g, text), [...new Set([...codes, ...outcomes])].sort())
  for (const outcome of OUTCOMES.filter((outcome) => outcome !== 'ok')) {
    const row =
      text.split('\n').find((line) => line.startsWith(`| \`ERR_FUNCTION_${outcome.toUpperCase()}\``)) ?? ''
    t.match(row, new RegExp(`\\| ${OUTCOME_RULES[outcome].httpStatus} \\|`), `status of ${outcome}`)
    t.equal(row.includes('attempts'), OUTCOME_RULES[outcome].retryable, `whether ${outcome} is retried`)
  }
})

t.test('docs/metrics.md lists every metric under its Prometheus name', async (t) => {
  const created = code.flatMap(({ text }) => [
    ...text.matchAll(/\.create(Observable)?(Counter|UpDownCounter|Gauge|Histogram)\(\s*'([a-z_]+)'/g),
  ])
  t.ok(created.length > 10, 'the search finds the instruments')
  const shown = created.map(([, , kind, name]) => (kind === 'Counter' ? `${name}_total` : name!))
  t.same(named(/^\| `([a-z_]+)` \|/gm, read('docs/metrics.md')), shown.sort())
})

t.test('docs/function-spec.md lists every field, default and bound', async (t) => {
  const text = read('docs/function-spec.md')
  const full = {
    service: 'a',
    namespace: 'n',
    image: 'b',
    command: ['c'],
    args: ['d'],
    user: 'e',
    workingDir: '/f',
  }
  const fields = ['service', ...Object.keys(describeSpec(parseDeployment(full)))]
  t.same(named(/^\| `(\w+)` \|/gm, text.split('Limits of each container')[0]!), fields.sort())
  t.same(
    named(/^\| `(\w+)` \|/gm, text.split('## How a call ends')[1]!),
    OUTCOMES.filter((outcome) => outcome !== 'throttled').sort(),
  )
  for (const [field, value] of Object.entries({
    memory: `${DEFAULT_LIMITS.memoryBytes / 1024 ** 2}Mi`,
    cpu: DEFAULT_LIMITS.cpus,
    pids: DEFAULT_LIMITS.pids,
  })) {
    t.ok(
      text
        .split('\n')
        .some((line) => line.startsWith(`| \`limits.${field}\` |`) && line.endsWith(`| \`${value}\` |`)),
      `default of limits.${field}`,
    )
  }
  for (const path of find('examples/*/function.json'))
    t.doesNotThrow(() => parseDeployment(JSON.parse(read(path))), path)
})

/** The anchors that GitHub generates for headings. */
function anchorsOf(markdown: string): string[] {
  return [...markdown.matchAll(/^#{1,6} +(.+)$/gm)].map(([, title]) =>
    title!
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  )
}

t.test('links in the docs have a target', async (t) => {
  for (const doc of docs) {
    const prose = read(doc)
      .replaceAll(/^( *)```[\s\S]*?^\1```/gm, '')
      .replaceAll(/`[^`\n]*`/g, '')
    for (const [, target] of prose.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue
      const [path, anchor] = target!.split('#')
      const file = path === '' ? doc : normalize(join(dirname(doc), path!))
      if (!existsSync(join(ROOT, file))) t.fail(`${doc} -> ${target}`)
      else if (anchor !== undefined && !anchorsOf(read(file)).includes(anchor))
        t.fail(`${doc} -> ${target}: no such heading`)
    }
  }
  t.ok(docs.length > 15, 'the search finds the docs')
})

t.test('files and make targets that the docs name exist', async (t) => {
  const targets = new Set(
    ['Makefile', 'native/Makefile'].flatMap((path) =>
      [...read(path).matchAll(/^([a-z][a-z -]*?):(?!=)/gm)].flatMap((match) => match[1]!.split(' ')),
    ),
  )
  for (const doc of docs) {
    const text = exactText(read(doc))
    for (const target of named(/\bmake (?:-C native )?([a-z][a-z0-9-]*)/g, text))
      if (!targets.has(target)) t.fail(`${doc}: make ${target}`)
    for (const path of named(
      /(?:^|[\s`(])((?:services|native|infra|test|docs|examples)\/[\w./-]*\w\.(?:ts|c|h|md|sh|json|conf|yml))/g,
      text,
    )) {
      // The docs write "test/unit/x.test.ts" for "some file".
      if (!existsSync(join(ROOT, path)) && basename(path) !== 'x.test.ts') t.fail(`${doc}: ${path}`)
    }
    for (const path of named(/(?:^|[\s`(])([a-z]+\/[\w./-]*\w\.ts)\b/g, text)) {
      const isOfRoom = existsSync(join(ROOT, 'services', path.split('/')[0]!))
      const places = [join('services', path), join(dirname(doc), path)]
      if (isOfRoom && !places.some((place) => existsSync(join(ROOT, place)))) t.fail(`${doc}: ${path}`)
    }
  }
  t.ok(targets.has('demo') && targets.has('check'), 'the search finds the targets')
})

t.test('ARCHITECTURE.md gives a reason for every installed package', async (t) => {
  const text = read('ARCHITECTURE.md')
  const project = JSON.parse(read('package.json')) as Record<string, Record<string, string>>
  const npm = ['dependencies', 'devDependencies', 'optionalDependencies', 'overrides'].flatMap((group) =>
    Object.keys(project[group] ?? {}),
  )
  const debian = [...read('infra/setup.sh').matchAll(/^[A-Z]+_PACKAGES=\(([^)]*)\)/gm)].flatMap((match) =>
    match[1]!.trim().split(/\s+/),
  )
  t.ok(npm.length > 10 && debian.length > 10, 'the search finds the packages')
  t.same(
    [...npm, ...debian].filter((name) => !text.includes(`\`${name}\``)),
    [],
  )
})

/** Files that are still over the limit. */
const LONG_FILES: readonly string[] = []

/** Functions that are still over the limit, by a part of their first line. */
const LONG_FUNCTIONS: readonly string[] = []

interface Block {
  readonly from: number
  readonly to: number
  readonly head: string
}

/**
 * The functions of a formatted TypeScript file: from a first line that ends in "{" to the next closing
 * bracket at the same indentation.
 */
function functionsOf(lines: readonly string[]): Block[] {
  const depthOf = (line: string): number => line.length - line.trimStart().length
  return lines.flatMap((line, from) => {
    const head = line.trim()
    if (
      !/(?:\bfunction\b.*|=>|\)(?:\s*:\s*[^=]*)?)\s*\{$/.test(head) ||
      /^(?:\}\s*)?(?:else\s+)?(?:if|for|while|switch|catch)\b/.test(head)
    )
      return []
    const to = lines.findIndex(
      (other, i) => i > from && depthOf(other) === depthOf(line) && /^\s*[}\])]/.test(other),
    )
    return [{ from, to: to < 0 ? lines.length : to, head }]
  })
}

/** Functions with too many lines, not counting the lines of inner functions. */
function longFunctions(path: string, text: string): string[] {
  const lines = text.split('\n')
  const blocks = path.endsWith('.ts')
    ? functionsOf(lines)
    : [...text.matchAll(/(?<=\)\n)^\{\n[\s\S]*?^\}/gm)].map(({ index, 0: body }): Block => {
        const from = text.slice(0, index).split('\n').length - 1
        return { from, to: from + body.split('\n').length - 1, head: lines[from - 1] ?? '' }
      })
  return blocks.flatMap((block) => {
    const inner = blocks.filter((other) => other.from > block.from && other.to <= block.to)
    let own = 0
    for (let i = block.from; i <= block.to; i++)
      if (!inner.some((other) => i >= other.from && i <= other.to)) own++
    return own > FUNCTION_LINES_MAX ? [`${path}:${block.from + 1}: ${own} lines: ${block.head}`] : []
  })
}

t.test('docs/isolation.md names only tests that exist', async (t) => {
  const table = read('docs/isolation.md').split('## Which test holds what')[1] ?? ''
  const named = [...table.matchAll(/`([^`]+\.(?:test\.ts|c))`:((?: ?"[^"]+",?)+)/g)].flatMap(
    ([, path = '', names = '']) =>
      [...names.matchAll(/"([^"]+)"/g)].map((match) => ({ path, name: match[1]! })),
  )
  t.ok(named.length > 25, `${named.length} tests are named`)
  t.same(
    named.filter(({ path, name }) => !read(path).includes(name)),
    [],
  )
})

t.test('no file and no function is too long', async (t) => {
  const files = find('services/**/*.ts', 'native/**/*.[ch]').map((path) => ({ path, text: read(path) }))
  const long = files
    .filter(({ text }) => text.split('\n').length - 1 > FILE_LINES_MAX)
    .map(({ path }) => path)
  t.same(long, LONG_FILES, `files over ${FILE_LINES_MAX} lines`)
  t.same(
    files
      .flatMap(({ path, text }) => longFunctions(path, text))
      .filter((line) => !LONG_FUNCTIONS.some((name) => line.includes(name))),
    [],
  )
  const statements = '  work()\n'.repeat(FUNCTION_LINES_MAX)
  t.equal(
    longFunctions('a.ts', `export function a () {\n${statements}}\n`).length,
    1,
    'finds a long function',
  )
  t.equal(
    longFunctions(
      'a.ts',
      `function a () {\n  function b () {\n    work()\n  }\n  return {\n    async c () {\n${statements}    },\n  }\n}\n`,
    ).length,
    1,
    'finds a long method, and only that',
  )
  t.equal(
    longFunctions('a.c', `static int\na (void)\n{\n${statements}}\n`).length,
    1,
    'finds a long function in C',
  )
})

t.test('every source file starts with a comment, and none has a TODO', async (t) => {
  const files = find('services/**/*.ts', 'native/**/*.[ch]').map((path) => ({ path, text: read(path) }))
  t.same(
    files.filter(({ text }) => !/^(?:\/\/|\/\*) ?\S/.test(text)).map(({ path }) => path),
    [],
    'files without a leading comment',
  )
  t.same(
    files.filter(({ text }) => /\b(?:TODO|FIXME|XXX)\b/.test(text)).map(({ path }) => path),
    [],
    'files with a TODO',
  )
})

/** Files in which a line of prose, or a line that ends in a comment, is still too long. */
const LONG_COMMENTS: readonly string[] = []

/** Columns of LINE without its URLs, which cannot be broken. */
const columnsOf = (line: string): number => [...line.replaceAll(/\bhttps?:\/\/\S+/g, '')].length

/** Lines of prose in Markdown: everything but tables and code blocks. */
function proseOf(markdown: string): string[] {
  let isCode = false
  return markdown.split('\n').filter((line) => {
    const isFence = /^ *```/.test(line)
    if (isFence) isCode = !isCode
    return !isCode && !isFence && !/^(?:\||<| {4}\S)/.test(line)
  })
}

/** Lines that are a comment, or that end in one. */
function commentsOf(path: string, source: string): string[] {
  const comment = /\.(?:ts|mjs|c|h)$/.test(path) ? /^\s*(?:\/\/|\/?\*)|\s(?:\/\/|\/\*) / : /^\s*#/
  return source.split('\n').filter((line) => comment.test(line))
}

t.test('comments and prose have at most 110 columns', async (t) => {
  const sources = find('Makefile', ...['services', 'native', 'test', 'infra'].map((room) => `${room}/**/*`))
    .filter((path) => /\.(?:ts|mjs|c|h|sh)$|\/Makefile$|^Makefile$/.test(path))
    .flatMap((path) => commentsOf(path, read(path)).map((line) => ({ path, line })))
  const prose = docs.flatMap((path) => proseOf(read(path)).map((line) => ({ path, line })))
  t.ok(sources.length > 3000 && prose.length > 1000, 'the search finds comments and prose')
  t.same(
    [...sources, ...prose]
      .filter(({ path, line }) => columnsOf(line) > COLUMNS_MAX && !LONG_COMMENTS.includes(path))
      .map(({ path, line }) => `${path}: ${line.trim()}`),
    [],
  )
  const long = 'word '.repeat(30)
  for (const line of [`// ${long}`, ` * ${long}`, `/* ${long}`, `  work() // ${long}`])
    t.equal(commentsOf('a.ts', `work()\n${line}`).length, 1, 'finds a comment')
  t.equal(commentsOf('a.ts', "fetch('http://a/b')").length, 0, 'a URL is not a comment')
  t.same(proseOf('| table |\n```\ncode\n```\n    code\nprose'), ['prose'], 'only prose counts')
})

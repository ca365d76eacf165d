// Import rules. Checks the import lines of every file in services/ against three tables: room ranks, owners
// of npm packages, and files that may read the process environment. Type imports count too, because they
// couple rooms like any other import. The test reads text and loads nothing from services/.

import { globSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** A room may import only rooms of a lower rank. */
const RANKS: Readonly<Record<string, number>> = {
  contract: 0,
  platform: 1,
  queue: 2,
  functions: 2,
  registry: 2,
  runtime: 2,
  images: 3,
  containers: 4,
  build: 4,
  gateway: 5,
  worker: 5,
  oci: 5,
  cli: 6,
}

/** The rooms that may import a package; `*` is every room but contract/. */
const OWNERS: Readonly<Record<string, readonly string[]>> = {
  zod: ['contract'],
  pino: ['platform'],
  ioredis: ['platform'],
  '@opentelemetry/exporter-prometheus': ['platform'],
  '@opentelemetry/sdk-metrics': ['platform'],
  '@opentelemetry/api': ['*'],
  bullmq: ['queue'],
  koffi: ['runtime'],
  undici: ['registry'],
  'tar-stream': ['images'],
  fastify: ['gateway'],
  commander: ['cli'],
  yaml: ['cli'],
  'lru-cache': ['*'],
  'string-width': ['platform'],
}

/** Files outside services/ that may be imported. */
const OUTSIDE = ['package.json']

/** The module names in SOURCE's import and export lines, dynamic imports included. */
function importsOf(source: string): string[] {
  const code = source.replaceAll(/^\s*(?:\/\/|\*|\/\*).*$/gm, '')
  const patterns = [
    /^\s*import\s+(?:type\s+)?[\w*\s{},$]+?\s+from\s*['"]([^'"]+)['"]/gm,
    /^\s*export\s+(?:type\s+)?(?:\*(?:\s+as\s+\w+)?|\{[^}]*\})\s*from\s*['"]([^'"]+)['"]/gm,
    /^\s*import\s*['"]([^'"]+)['"]/gm,
    /\bimport\s*\(\s*['"]([^'"]+)['"]/g,
  ]
  return patterns.flatMap((pattern) => [...code.matchAll(pattern)].map((match) => match[1]!))
}

const folderOf = (path: string): string => path.split('/')[1]!

function faultOfPackage(folder: string, name: string): string | undefined {
  const packageName = name.split('/', name.startsWith('@') ? 2 : 1).join('/')
  if (name.startsWith('node:')) return undefined
  if (builtinModules.includes(name)) return 'Node modules are imported as "node:…"'
  const owners = OWNERS[packageName]
  if (owners === undefined)
    return 'no room owns this package; name one in this test, and a reason in ARCHITECTURE.md'
  if (owners.includes(folder) || (owners.includes('*') && folder !== 'contract')) return undefined
  return `only ${owners.join(', ')} may import it`
}

function faultOfFile(file: string, name: string): string | undefined {
  if (!/\.(?:ts|json)$/.test(name)) return 'an import path ends in .ts'
  const target = normalize(join(dirname(file), name))
  if (!target.startsWith('services/'))
    return OUTSIDE.includes(target) ? undefined : 'files outside services/ cannot be imported'
  const [from, to] = [folderOf(file), folderOf(target)]
  if (from === to) return undefined
  const [mine, theirs] = [RANKS[from], RANKS[to]]
  if (mine === undefined || theirs === undefined) return 'the room has no rank'
  return theirs < mine
    ? undefined
    : theirs === mine
      ? 'rooms of one rank cannot import each other'
      : 'a room cannot import one of a higher rank'
}

/** One line `file -> import: reason` for every forbidden import of FILE ("services/…"). */
function importFaults(file: string, source: string): string[] {
  return importsOf(source).flatMap((name) => {
    const why = name.startsWith('.') ? faultOfFile(file, name) : faultOfPackage(folderOf(file), name)
    return why === undefined ? [] : [`${file} -> ${name}: ${why}`]
  })
}

/** Lines of FILE that read the environment or end the process, which only main.ts may do. */
function processFaults(file: string, source: string): string[] {
  if (file.endsWith('/main.ts')) return []
  // Skip files that declare a variable of that name (a runtime spec has a `process`).
  if (/\b(?:const|let|var)\s+\{[^}]*\bprocess\b[^}]*\}\s*=/.test(source)) return []
  return source.split('\n').flatMap((line, i) => {
    const code = line.replace(/(?:^|\s)(?:\/\/|\*|\/\*\*).*$/, '')
    const used =
      /(?<!\.)\bprocess\s*(?:\.\s*|\[\s*['"])(?:env|exit|exitCode)\b|\{[^}]*\b(?:env|exit)\b[^}]*\}\s*=\s*process\b/.test(
        code,
      )
    return used
      ? [`${file}:${i + 1} -> process: only main.ts may read the environment or end the process`]
      : []
  })
}

const files = globSync('services/**/*.ts', { cwd: ROOT })
  .sort()
  .map((file) => ({ file, source: readFileSync(join(ROOT, file), 'utf8') }))

t.test('imports go to lower rooms, owned packages or Node', async (t) => {
  t.ok(files.length > 50, 'the search finds the files')
  t.same(
    files.flatMap(({ file, source }) => importFaults(file, source)),
    [],
  )
})

t.test('only main.ts reads the environment or ends the process', async (t) => {
  t.same(
    files.flatMap(({ file, source }) => processFaults(file, source)),
    [],
  )
})

t.test('the packages with an owner are the dependencies of package.json', async (t) => {
  const { dependencies } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>
  }
  t.same(Object.keys(dependencies).sort(), Object.keys(OWNERS).sort())
  const used = new Set(files.flatMap(({ source }) => importsOf(source)))
  for (const name of Object.keys(OWNERS)) t.ok(used.has(name), `${name} is used`)
})

/** Everything that importing FILE loads: its static value imports, and transitively theirs. */
function loadedAtStart(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return seen
  seen.add(file)
  const source = files.find((one) => one.file === file)?.source ?? ''
  const values = source
    .replaceAll(/^\s*(?:import|export)\s+type\b.*$/gm, '')
    .replaceAll(/\bimport\s*\(/g, '(')
  for (const name of importsOf(values)) {
    if (name.startsWith('.')) loadedAtStart(normalize(join(dirname(file), name)), seen)
    else seen.add(name)
  }
  return seen
}

t.test('the command line starts without modules that most commands do not need', async (t) => {
  const loaded = [...loadedAtStart('services/cli/main.ts')]
  t.ok(loaded.includes('services/cli/commands/list.ts'), 'the search finds the commands')
  t.same(
    loaded.filter((name) => /^[a-z@]/.test(name) && !/^(?:node:|services\/|package\.json$)/.test(name)),
    ['commander'],
  )
  t.same(
    loaded.filter((name) =>
      /^node:sqlite$|^services\/(?:registry|images|build|runtime|queue|gateway|worker|functions)\//.test(
        name,
      ),
    ),
    [],
    'they are loaded inside the commands that need them',
  )
})

t.test('finds forbidden imports in every syntax', async (t) => {
  const cases = [
    ['services/queue/a.ts', "import { x } from '../registry/registry.ts'", 'one rank'],
    ['services/queue/a.ts', "import type { X } from '../worker/worker.ts'", 'higher'],
    ['services/contract/a.ts', "import {\n  type X,\n} from '../platform/log.ts'", 'higher'],
    ['services/contract/a.ts', "import { metrics } from '@opentelemetry/api'", 'only'],
    ['services/gateway/a.ts', "export { x } from '../worker/worker.ts'", 'one rank'],
    ['services/oci/a.ts', "const x = await import('../gateway/gateway.ts')", 'one rank'],
    ['services/worker/a.ts', "import { x } from '../cli/program.ts'", 'higher'],
    ['services/worker/up/a.ts', "const x = await import('../../gateway/gateway.ts')", 'one rank'],
    ['services/build/a.ts', "import { x } from '../cli/context.ts'", 'higher'],
    ['services/cli/a.ts', "type X = import('bullmq').Queue", 'only queue'],
    ['services/images/a.ts', "import { x } from './pull'", 'ends in .ts'],
    ['services/images/a.ts', "import { x } from './pull.js'", 'ends in .ts'],
    ['services/images/a.ts', "import fs from 'fs'", 'node:'],
    ['services/images/a.ts', "import 'left-pad/register'", 'no room owns'],
    ['services/utils/a.ts', "import { x } from '../contract/errors.ts'", 'no rank'],
    ['services/worker/a.ts', "import { x } from '../../test/helpers/redis.ts'", 'outside'],
  ] as const
  for (const [file, source, why] of cases)
    t.match(importFaults(file, source), [new RegExp(`^${file} -> .*${why}`)], source)
  t.same(
    importFaults(
      'services/worker/a.ts',
      "// import { x } from '../gateway/x.ts'\nimport { y } from '../images/pull.ts'",
    ),
    [],
    'ignores comments',
  )
  for (const source of [
    'const a = process.env.HOME',
    'process.exit(1)',
    "process['env']",
    'const { env } = process',
    'process.exitCode = 1',
  ]) {
    t.equal(processFaults('services/cli/a.ts', source).length, 1, source)
    t.equal(processFaults('services/cli/main.ts', source).length, 0, `${source} in a main.ts`)
  }
  t.same(
    processFaults('services/worker/a.ts', 'spec.process.env'),
    [],
    'the process of a spec is another one',
  )
})

// Who may import whom.  Reads the import lines of every file in services/ (types count like values: a
// type ties two folders together as well) and holds three tables: folders, npm packages, and where the
// process's own environment may be looked at.  Knows text only; nothing of services/ is loaded.

import { globSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** Lower may be imported by higher, never the other way, and never sideways. */
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

/** The folders that may import a package; `*` is every folder but contract/. */
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

/** Files beside services/ that code may read at run time. */
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
  if (builtinModules.includes(name)) return 'a module of Node is imported as "node:…"'
  const owners = OWNERS[packageName]
  if (owners === undefined)
    return 'no folder owns this package; give it one in this test, with a reason in ARCHITECTURE.md'
  if (owners.includes(folder) || (owners.includes('*') && folder !== 'contract')) return undefined
  return `only ${owners.join(', ')} may import it`
}

function faultOfFile(file: string, name: string): string | undefined {
  if (!/\.(?:ts|json)$/.test(name)) return 'an import ends in .ts'
  const target = normalize(join(dirname(file), name))
  if (!target.startsWith('services/'))
    return OUTSIDE.includes(target) ? undefined : 'nothing outside of services/ is imported'
  const [from, to] = [folderOf(file), folderOf(target)]
  if (from === to) return undefined
  const [mine, theirs] = [RANKS[from], RANKS[to]]
  if (mine === undefined || theirs === undefined) return 'a folder that has no place in the order'
  return theirs < mine
    ? undefined
    : theirs === mine
      ? 'neighbours do not know each other'
      : 'lower folders do not know higher ones'
}

/** One line `file -> what: why` for every import of FILE ("services/…") that is not allowed. */
function importFaults(file: string, source: string): string[] {
  return importsOf(source).flatMap((name) => {
    const why = name.startsWith('.') ? faultOfFile(file, name) : faultOfPackage(folderOf(file), name)
    return why === undefined ? [] : [`${file} -> ${name}: ${why}`]
  })
}

/** Where FILE looks at the process's environment or ends the process, which only a main.ts may. */
function processFaults(file: string, source: string): string[] {
  if (file.endsWith('/main.ts')) return []
  // A file that binds the name itself (a runtime spec has a `process`) means its own.
  if (/\b(?:const|let|var)\s+\{[^}]*\bprocess\b[^}]*\}\s*=/.test(source)) return []
  return source.split('\n').flatMap((line, i) => {
    const code = line.replace(/(?:^|\s)(?:\/\/|\*|\/\*\*).*$/, '')
    const used =
      /\bprocess\s*(?:\.\s*|\[\s*['"])(?:env|exit|exitCode)\b|\{[^}]*\b(?:env|exit)\b[^}]*\}\s*=\s*process\b/.test(
        code,
      )
    return used ? [`${file}:${i + 1} -> process: only a main.ts reads its environment or ends it`] : []
  })
}

const files = globSync('services/**/*.ts', { cwd: ROOT })
  .sort()
  .map((file) => ({ file, source: readFileSync(join(ROOT, file), 'utf8') }))

t.test('every import goes down, to an owned package or to Node', async (t) => {
  t.ok(files.length > 50, 'the files are found')
  t.same(
    files.flatMap(({ file, source }) => importFaults(file, source)),
    [],
  )
})

t.test('only a main.ts reads the environment or ends the process', async (t) => {
  t.same(
    files.flatMap(({ file, source }) => processFaults(file, source)),
    [],
  )
})

t.test('every dependency of package.json has an owner, and the other way round', async (t) => {
  const { dependencies } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>
  }
  t.same(Object.keys(dependencies).sort(), Object.keys(OWNERS).sort())
  const used = new Set(files.flatMap(({ source }) => importsOf(source)))
  for (const name of Object.keys(OWNERS)) t.ok(used.has(name), `${name} is used`)
})

/**
 * What FILE loads before it does anything: its imports that are neither of types nor inside of a function,
 * and theirs.
 */
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

t.test('the command line starts without what most commands do not need', async (t) => {
  const loaded = [...loadedAtStart('services/cli/main.ts')]
  t.ok(loaded.includes('services/cli/commands/list.ts'), 'the commands are found')
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
    'they are loaded inside of the commands that need them',
  )
})

t.test('what is not allowed is found, in each way of writing it', async (t) => {
  const cases = [
    ['services/queue/a.ts', "import { x } from '../registry/registry.ts'", 'neighbours'],
    ['services/queue/a.ts', "import type { X } from '../worker/worker.ts'", 'higher'],
    ['services/contract/a.ts', "import {\n  type X,\n} from '../platform/log.ts'", 'higher'],
    ['services/contract/a.ts', "import { metrics } from '@opentelemetry/api'", 'only'],
    ['services/gateway/a.ts', "export { x } from '../worker/worker.ts'", 'neighbours'],
    ['services/oci/a.ts', "const x = await import('../gateway/gateway.ts')", 'neighbours'],
    ['services/worker/a.ts', "import { x } from '../cli/program.ts'", 'higher'],
    ['services/worker/up/a.ts', "const x = await import('../../gateway/gateway.ts')", 'neighbours'],
    ['services/build/a.ts', "import { x } from '../cli/context.ts'", 'higher'],
    ['services/cli/a.ts', "type X = import('bullmq').Queue", 'only queue'],
    ['services/images/a.ts', "import { x } from './pull'", 'ends in .ts'],
    ['services/images/a.ts', "import { x } from './pull.js'", 'ends in .ts'],
    ['services/images/a.ts', "import fs from 'fs'", 'node:'],
    ['services/images/a.ts', "import 'left-pad/register'", 'no folder owns'],
    ['services/utils/a.ts', "import { x } from '../contract/errors.ts'", 'no place'],
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
    'comments do not count',
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
})

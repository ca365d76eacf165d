// `make pack`: the packed wherry-oci behaves as its sources do, and is not used when a source has changed.

import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const MAIN = join(ROOT, 'services/oci/main.ts')

function node(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', ...args], {
    cwd: ROOT,
    encoding: 'utf8',
  })
}

t.test('a packed program', async (t) => {
  const output = join(t.testdir(), 'packed')
  t.match(node('infra/pack/pack.ts', MAIN, output), { status: 0, stderr: '' })
  const script = `${output}.cjs`
  for (const args of [['features'], ['--help'], ['run', '--bundle', '/nothing', 'x'], ['none']]) {
    const { status, stdout, stderr } = node(MAIN, ...args)
    t.match(node(script, ...args), { status, stdout, stderr }, args.join(' '))
  }
  const body = readFileSync(`${output}.js`, 'utf8')
  t.notMatch(body, /[^\0-\x7f]/)
  writeFileSync(`${output}.js`, "() => { console.log('packed') }\n")
  t.equal(node(script, '--version').stdout, 'packed\n', 'runs the packed script and ignores a stale cache')
  const loader = readFileSync(script, 'utf8')
  writeFileSync(script, loader.replace(/("services\/containers\/create\.ts",)\d+/, '$17'))
  t.match(node(script, '--version').stdout, /^wherry-oci version /, 'runs the sources when one has changed')
  writeFileSync(script, loader.replace('services/containers/create.ts', 'services/containers/gone.ts'))
  t.match(node(script, '--version').stdout, /^wherry-oci version /, 'runs the sources when one is missing')
})

t.test('unsupported forms of import and export are rejected', async (t) => {
  const directory = t.testdir({
    'star.ts': "export * from './other.ts'\n",
    'package.ts': "import { z } from 'zod'\nconsole.log(z)\n",
    'a.ts': "import { b } from './b.ts'\nexport const a = () => b\n",
    'b.ts': "import { a } from './a.ts'\nexport const b = () => a\n",
  })
  for (const [name, why] of [
    ['star', /unsupported form of import or export: export \*/],
    ['package', /the package zod cannot be packed/],
    ['a', /imports itself/],
  ] as const) {
    t.match(node('infra/pack/pack.ts', join(directory, `${name}.ts`), join(directory, 'out')), {
      status: 1,
      stderr: why,
    })
  }
})

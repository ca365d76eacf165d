// Packs the program ENTRY with all modules that it imports into one script, and compiles that ahead: node
// infra/pack/pack.ts ENTRY OUTPUT writes OUTPUT.cjs (what is started), OUTPUT.js and OUTPUT.cache. For a
// command that engines start several times for each container: Node needs a millisecond for each module and
// ten for koffi's own loader. Knows the few forms in which this project imports and exports, and refuses any
// other. OUTPUT.cjs knows the sources; when one of them has changed it steps aside, and ENTRY runs as it is.

import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { Script } from 'node:vm'

const ROOT = resolve(import.meta.dirname, '../..')
const MODULES_MAX = 500
const ADDON = `node_modules/@koromix/koffi-${process.platform}-${process.arch}/${process.platform}_${process.arch}/koffi.node`

interface Packed {
  /** Path from the root. */
  readonly file: string
  /** Name of the constant that holds its exports. */
  readonly name: string
  readonly code: string
}

/** "a, b as c" as the inside of a destructuring pattern: "a, b: c". */
const pattern = (names: string): string =>
  names
    .split(',')
    .map((name) => name.trim())
    .filter(Boolean)
    .map((name) => name.replace(/^(\w+)\s+as\s+(\w+)$/, '$1: $2'))
    .join(', ')

/** CODE of FILE without import and export; IMPORTED gives the constant of another module. */
function rewrite(file: string, code: string, imported: (source: string) => string): string {
  const exported: string[] = []
  const body = code
    .replaceAll(
      /^import (?:(\w+)(?:, )?)?(?:\{([^}]*)\})? ?from '([^']+)';?$/gm,
      (_, whole: string | undefined, names: string | undefined, source: string) => {
        const from =
          source === 'koffi'
            ? '$koffi'
            : source.startsWith('node:')
              ? `require('${source}')`
              : imported(source)
        return [
          ...(whole === undefined ? [] : [`const ${whole} = ${from}`]),
          ...(names === undefined || pattern(names) === '' ? [] : [`const { ${pattern(names)} } = ${from}`]),
        ].join('; ')
      },
    )
    .replaceAll(
      /^export ((?:const|class|function|async function) (\w+))/gm,
      (_, declaration: string, name: string) => {
        exported.push(name)
        return declaration
      },
    )
    .replaceAll('import.meta.url', `$urlOf(${JSON.stringify(file)})`)
    // Plain ASCII takes half the memory and no decoding; U+2002 is what stripping leaves in the place of
    // longer characters.
    .replaceAll('\u2002', ' ')
    .replaceAll(/[^\0-\x7f]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
  const left = /^(?:import|export)\b.*|\bimport\.meta\b|\bimport\(/m.exec(body)
  if (left) throw new Error(`${file}: this form of import or export is not known here: ${left[0]}`)
  return `${body}\nreturn { ${exported.join(', ')} }`
}

/** ENTRY and what it imports, each behind what it imports itself. */
function collect(entry: string): Packed[] {
  const done = new Map<string, Packed>()
  const open = new Set<string>()
  function visit(path: string): Packed {
    const known = done.get(path)
    if (known) return known
    if (open.has(path)) throw new Error(`${relative(ROOT, path)} imports itself, by way of others`)
    if (open.size + done.size > MODULES_MAX) throw new Error(`more than ${MODULES_MAX} modules`)
    open.add(path)
    const file = relative(ROOT, path)
    const code = rewrite(file, stripTypeScriptTypes(readFileSync(path, 'utf8')), (source) => {
      if (!source.startsWith('.')) throw new Error(`${file}: the package ${source} cannot be packed`)
      return visit(resolve(dirname(path), source)).name
    })
    const packed = { file, name: `$${done.size}`, code }
    done.set(path, packed)
    return packed
  }
  visit(entry)
  return [...done.values()]
}

/** [path from the root, bytes, time of its last change] */
function stampOf(file: string): [string, number, number] {
  const { size, mtimeMs } = statSync(join(ROOT, file))
  return [file, size, mtimeMs]
}

/** The program as a function of Node's `require` and the path of the checkout. */
function bodyOf(modules: readonly Packed[]): string {
  const main = modules.at(-1)!
  return `// Written by infra/pack/pack.ts; do not change it.
((require, $root) => {
'use strict'
const $urlOf = file => require('node:url').pathToFileURL($root + '/' + file).href
let $addon
const $koffi = new Proxy({}, { get (_, name) {
  if ($addon === undefined) process.dlopen($addon = { exports: {} }, $root + '/${ADDON}')
  return $addon.exports[name]
} })
${modules
  .slice(0, -1)
  .map(({ file, name, code }) => `// ${file}\nconst ${name} = (() => {\n${code}\n})()`)
  .join('\n')}
// ${main.file}
;(async () => {
${main.code}
})()
})
`
}

/**
 * What Node is started with: the body, if all is as it was, or else the sources. It knows its checkout by
 * where it is itself.
 */
const loaderOf = (
  output: string,
  modules: readonly Packed[],
): string => `// Written by infra/pack/pack.ts; do not change it.
'use strict'
const fs = require('node:fs')
const root = require('node:path').join(__dirname, ${JSON.stringify(relative(dirname(output), ROOT))})
const own = __dirname + ${JSON.stringify(`/${basename(output)}`)}
const stamps = ${JSON.stringify([...modules.map(({ file }) => file), ADDON].map(stampOf))}
const same = ([file, size, mtimeMs]) => {
  const stat = fs.statSync(root + '/' + file, { throwIfNoEntry: false })
  return stat !== undefined && stat.size === size && stat.mtimeMs === mtimeMs
}
if (stamps.every(same)) {
  const filename = own + '.js'
  const { Script } = require('node:vm')
  new Script(fs.readFileSync(filename, 'latin1'), { filename, cachedData: fs.readFileSync(own + '.cache') }).runInThisContext()(require, root)
} else {
  require('node:module').enableCompileCache(__dirname + '/compile-cache')
  import(require('node:url').pathToFileURL(root + ${JSON.stringify(`/${modules.at(-1)!.file}`)}))
}
`

/** All functions of BODY as this Node compiles them.  Another Node refuses it, and compiles for itself. */
function compile(body: string, filename: string): Buffer {
  setFlagsFromString('--no-lazy')
  const script = new Script(body, { filename })
  setFlagsFromString('--lazy') // the cache has to carry the flags that it is going to be read with
  return script.createCachedData()
}

function write(file: string, content: string | Buffer): void {
  writeFileSync(`${file}.new`, content)
  renameSync(`${file}.new`, file)
}

const [entry, out] = process.argv.slice(2)
if (entry === undefined || out === undefined) throw new Error('usage: node infra/pack/pack.ts ENTRY OUTPUT')
const output = resolve(out)
const modules = collect(resolve(entry))
const body = bodyOf(modules)
mkdirSync(dirname(output), { recursive: true })
// A loader of before uses neither of the first two: other sources are other stamps.
write(`${output}.js`, body)
write(`${output}.cache`, compile(body, `${output}.js`))
write(`${output}.cjs`, loaderOf(output, modules))

// The context: .dockerignore, wildcards, links, exclusions, and the hash of a COPY's files. The patterns were
// compared with Go's path.Match and moby's matcher on random inputs; these are the instructive cases.

import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readBuildFiles } from '../../services/build/context/build-files.ts'
import { createContext, type BuildContext } from '../../services/build/context/context.ts'
import {
  selectFiles,
  type CopyRequest,
  type CopySelection,
} from '../../services/build/context/context-select.ts'
import { excludeRules, NO_RULES, parseDockerignore } from '../../services/build/context/dockerignore.ts'
import { parsePathPattern } from '../../services/build/context/path-pattern.ts'

type Tree = Parameters<typeof t.testdir>[0]

const fault = (problem: string, facts: { hint?: string | undefined } = {}): Error =>
  new Error(facts.hint === undefined ? problem : `${problem}; ${facts.hint}`)

function select(
  context: BuildContext,
  sources: readonly string[],
  options: Partial<CopyRequest> = {},
): Promise<CopySelection> {
  return selectFiles(context, {
    sources,
    excludes: [],
    keepsParents: false,
    isIntoDirectory: true,
    fault,
    ...options,
  })
}

const open = (dir: string, ignore = ''): BuildContext =>
  createContext({ dir, rules: ignore === '' ? NO_RULES : parseDockerignore('.dockerignore', ignore) })

async function namesOf(
  context: BuildContext,
  sources: readonly string[],
  options: Partial<CopyRequest> = {},
): Promise<string[]> {
  return (await select(context, sources, options)).items.map(({ entry, name }) =>
    entry.kind === 'directory' ? `${name}/` : name,
  )
}

/** The PATHS that RULES include, judged from the top down as in a walk. */
function seen(ignore: string, paths: readonly string[]): string[] {
  const rules = parseDockerignore('.dockerignore', ignore)
  return paths.filter((path) => {
    let verdict = rules.root
    const parts = path.split('/')
    for (let i = 1; i <= parts.length; i++) verdict = rules.judge(parts.slice(0, i).join('/'), verdict)
    return !verdict.isIgnored
  })
}

t.test('path patterns match as in Go, and ** crosses folders', async (t) => {
  for (const [pattern, path, isMatch] of [
    ['a', 'a', true],
    ['a', 'ab', false],
    ['*', 'a', true],
    ['*', 'a/b', false],
    ['a*', 'abc', true],
    ['a*c', 'abbc', true],
    ['?', 'é', true],
    ['?', '/', false],
    ['[a-c]x', 'bx', true],
    ['[^a-c]x', 'bx', false],
    ['[]a]', 'a', undefined],
    ['[a', 'a', undefined],
    ['\\*', '*', true],
    ['\\*', 'a', false],
    ['a\\', 'a', undefined],
    ['[\\]]', ']', true],
    ['[a-]', 'a', undefined],
    ['a/*/c', 'a/b/c', true],
    ['a/*/c', 'a/b/d/c', false],
    ['*.txt', '.txt', true],
  ] as const)
    t.equal(parsePathPattern(pattern, false)?.matches(path), isMatch, `${pattern} ${path}`)
  for (const [pattern, path, isMatch] of [
    ['**', 'a/b', true],
    ['**/b', 'b', true],
    ['**/b', 'a/b', true],
    ['**/b', 'xb', false],
    ['a/**', 'a', false],
    ['a/**', 'a/b/c', true],
    ['a/**/c', 'a/c', true],
    ['a/**/c', 'a/b/b/c', true],
    ['**/*.go', 'x/y.go', true],
    ['**.go', 'x/y.go', true],
    ['a**/b', 'ax/b', true],
    ['a**/b', 'axb', false],
    ['**/a/**/b', 'x/a/y/z/b', true],
  ] as const)
    t.equal(parsePathPattern(pattern, true)?.matches(path), isMatch, `${pattern} ${path}`)
  t.equal(
    parsePathPattern(`${'*a'.repeat(1500)}b`, true)?.matches('a'.repeat(4000)),
    false,
    'a pattern that takes exponential time with backtracking',
  )
})

t.test('the last pattern that matches a path, or a folder above it, decides', async (t) => {
  const paths = ['a', 'a/b', 'a/b/c', 'd.md', 'README.md', 'x/d.md', 'temp1', '#x']
  for (const [ignore, wanted] of [
    ['', paths],
    ['# comment\n\n  a  \n', ['d.md', 'README.md', 'x/d.md', 'temp1', '#x']],
    ['/a/b', ['a', 'd.md', 'README.md', 'x/d.md', 'temp1', '#x']],
    ['./a/../a/b/', ['a', 'd.md', 'README.md', 'x/d.md', 'temp1', '#x']],
    ['*.md\n!README.md', ['a', 'a/b', 'a/b/c', 'README.md', 'x/d.md', 'temp1', '#x']],
    ['!README.md\n*.md', ['a', 'a/b', 'a/b/c', 'x/d.md', 'temp1', '#x']],
    ['**/*.md', ['a', 'a/b', 'a/b/c', 'temp1', '#x']],
    ['*', []],
    ['*\n!a/b', ['a/b', 'a/b/c']],
    ['a\n! a/b\na/b/c', ['a/b', 'd.md', 'README.md', 'x/d.md', 'temp1', '#x']],
    ['temp?', paths.filter((path) => path !== 'temp1')],
    ['\uFEFFa', paths.filter((path) => !path.startsWith('a'))],
    ['a\r\nd.md\r\n', ['README.md', 'x/d.md', 'temp1', '#x']],
    ['\\#x', paths.slice(0, -1)],
    ['.', paths],
    ['../a', paths],
  ] as const)
    t.same(seen(ignore, paths), wanted, JSON.stringify(ignore))
  t.throws(() => parseDockerignore('.dockerignore', 'a\n[b'), {
    code: 'ERR_INVALID_DOCKERFILE',
    message: /^\.dockerignore:2: "\[b" is not a valid pattern/,
  })
  t.throws(() => parseDockerignore('.dockerignore', '!'), { message: /"!" needs a pattern/ })
  t.throws(() => parseDockerignore('.dockerignore', 'a\n'.repeat(10_001)), { message: /more than/ })
  t.throws(() => parseDockerignore('.dockerignore', 'a'.repeat(1024 * 1024 + 1)), { message: /the limit is/ })
  t.equal(excludeRules(['a', '[b']), '[b')
})

const TREE: Tree = {
  'a.txt': 'a',
  'b.txt': 'b',
  'c.md': 'c',
  'sp ace': 's',
  '[x]': 'x',
  dir: { 'one.txt': '1', 'two.md': '2', sub: { 'deep.txt': 'd', empty: {} } },
  other: { 'three.txt': '3' },
}

t.test('sources are files, contents of folders, or matches of wildcards', async (t) => {
  const context = open(t.testdir(TREE))
  for (const [sources, wanted] of [
    [['a.txt'], ['a.txt']],
    [['dir'], ['one.txt', 'sub/', 'sub/deep.txt', 'sub/empty/', 'two.md']],
    [['dir/sub'], ['deep.txt', 'empty/']],
    [['*.txt'], ['a.txt', 'b.txt']],
    [
      ['*.txt', 'c.md'],
      ['a.txt', 'b.txt', 'c.md'],
    ],
    [['dir/*.txt'], ['one.txt']],
    [['*/*.txt'], ['one.txt', 'three.txt']],
    [['d*'], ['one.txt', 'sub/', 'sub/deep.txt', 'sub/empty/', 'two.md']],
    [['sp ace'], ['sp ace']],
    [['[[]x]'], ['[x]']],
    [['?.txt'], ['a.txt', 'b.txt']],
    [['*.none'], []],
    [['../../a.txt'], ['a.txt']],
    [['dir/../a.txt'], ['a.txt']],
  ] as const)
    t.same(await namesOf(context, sources), wanted, String(sources))
  t.same((await namesOf(context, [''])).length, 13, 'everything')
  t.match(await select(context, ['*.none', 'a.txt']), { unmatched: ['*.none'], layout: 'directory' })
  t.match(await select(context, ['a.txt'], { isIntoDirectory: false }), {
    layout: 'file',
    items: [{ isDirect: true, entry: { kind: 'file', sizeBytes: 1 } }],
  })
  t.match(
    await select(context, ['other'], { isIntoDirectory: false }),
    { layout: 'directory', items: [{ isDirect: false, name: 'three.txt' }] },
    'a folder with one file is a folder',
  )
  t.match(await select(context, ['a.*'], { isIntoDirectory: false }), { layout: 'file' })
  await t.rejects(select(context, ['*.txt'], { isIntoDirectory: false }), {
    message: /2 files match.*end it with "\/"/,
  })
  await t.rejects(select(context, ['b.tx']), { message: /no "b.tx" in the context; did you mean b\.txt\?/ })
  await t.rejects(select(context, ['dir/sub/no']), { message: /no "dir\/sub\/no"/ })
  await t.rejects(select(context, ['a.txt/x']), { message: /"a.txt" is not a folder/ })
  await t.rejects(select(context, ['[a']), { message: /not a valid pattern/ })
})

t.test('an ignored file does not exist for COPY, and the message says why', async (t) => {
  const dir = t.testdir(TREE)
  const context = open(dir, 'dir\n!dir/sub/deep.txt\n*.md\nDockerfile')
  t.same(await namesOf(context, ['']), [
    '[x]',
    'a.txt',
    'b.txt',
    'dir/',
    'dir/sub/',
    'dir/sub/deep.txt',
    'other/',
    'other/three.txt',
    'sp ace',
  ])
  t.same(await namesOf(context, ['dir']), ['sub/', 'sub/deep.txt'])
  t.same(await namesOf(open(dir, '*\n!other'), ['']), ['other/', 'other/three.txt'])
  t.same(await namesOf(open(dir, '**\n!**/*.txt'), ['']), [
    'a.txt',
    'b.txt',
    'dir/',
    'dir/one.txt',
    'dir/sub/',
    'dir/sub/deep.txt',
    'other/',
    'other/three.txt',
  ])
  await t.rejects(select(context, ['c.md']), {
    message: /"c.md" is excluded from the context by \.dockerignore:3/,
  })
  await t.rejects(select(context, ['dir/one.txt']), { message: /excluded.*:1/ })
})

t.test('--exclude omits files, --parents keeps folders', async (t) => {
  const context = open(t.testdir(TREE))
  const excluding = (excludes: string[], sources: string[]): Promise<string[]> =>
    namesOf(context, sources, { excludes })
  t.same(await excluding(['*.txt'], ['dir']), ['sub/', 'sub/deep.txt', 'sub/empty/', 'two.md'])
  t.same(await excluding(['**/*.txt'], ['dir']), ['sub/', 'sub/empty/', 'two.md'])
  t.same(await excluding(['*.txt'], ['*.txt', 'c.md']), ['c.md'])
  t.same(await excluding(['sub', '!sub/deep.txt'], ['dir']), ['one.txt', 'sub/', 'sub/deep.txt', 'two.md'])
  await t.rejects(excluding(['[a'], ['dir']), { message: /not a valid pattern/ })
  const keeping = (...sources: string[]): Promise<string[]> =>
    namesOf(context, sources, { keepsParents: true })
  t.same(await keeping('dir/sub/deep.txt', 'a.txt'), ['a.txt', 'dir/', 'dir/sub/', 'dir/sub/deep.txt'])
  t.same(await keeping('dir/./sub/deep.txt'), ['sub/', 'sub/deep.txt'])
  t.same(await keeping('**/*.txt'), [
    'a.txt',
    'b.txt',
    'dir/',
    'dir/one.txt',
    'dir/sub/',
    'dir/sub/deep.txt',
    'other/',
    'other/three.txt',
  ])
  t.same(await keeping('dir/./'), ['one.txt', 'sub/', 'sub/deep.txt', 'sub/empty/', 'two.md'])
  t.same(await keeping('dir/s*'), ['dir/', 'dir/sub/', 'dir/sub/deep.txt', 'dir/sub/empty/'])
  await t.rejects(keeping('dir/none.txt'), { message: /no "dir\/none.txt"/ })
})

t.test('links cannot leave the context', async (t) => {
  const outside = t.testdir({ secret: 'no', context: { file: 'f', dir: { x: '1' } } })
  const dir = join(outside, 'context')
  for (const [name, target] of [
    ['to-file', 'file'],
    ['to-dir', 'dir'],
    ['up', '../secret'],
    ['root', '/file'],
    ['hosts', '/etc/hosts'],
    ['loop', 'loop'],
    ['dir/back', '../file'],
    ['above', '../../..'],
  ] as const)
    symlinkSync(target, join(dir, name))
  const context = open(dir)
  t.match(
    await select(context, ['to-file']),
    { items: [{ name: 'to-file', entry: { kind: 'file', path: 'file' } }] },
    'a source that is a link means its target',
  )
  t.same(await namesOf(context, ['to-dir']), ['back', 'x'])
  t.match(await select(context, ['root']), { items: [{ entry: { path: 'file' } }] }, '"/" is the context')
  t.match(
    await select(context, ['dir']),
    { items: [{ name: 'back', entry: { kind: 'link', linkTarget: '../file' } }, { name: 'x' }] },
    'a link inside a folder is copied as a link',
  )
  t.same(await namesOf(context, ['to-dir/x', 'to-dir/back']), ['back', 'x'])
  for (const name of ['up', 'hosts'])
    await t.rejects(select(context, [name]), { message: /no ".*" in the context/ }, name)
  await t.rejects(select(context, ['above/secret']), { message: /no "secret"/ })
  await t.rejects(select(context, ['loop']), { message: /more than 40 links/ })
})

t.test('a file that was replaced meanwhile is not read', async (t) => {
  const outside = t.testdir({ secret: 'no', context: { dir: { f: 'yes' }, g: 'yes' } })
  const dir = join(outside, 'context')
  const context = open(dir)
  const items = (await select(context, [''])).items
  const [f, g] = ['dir/f', 'g'].map((path) => items.find(({ entry }) => entry.path === path)!.entry)
  const fd = context.open(f!)
  t.equal(readFileSync(fd, 'utf8'), 'yes')
  closeSync(fd)
  renameSync(join(dir, 'dir'), join(dir, 'old'))
  symlinkSync('..', join(dir, 'dir'))
  rmSync(join(dir, 'g'))
  symlinkSync('../secret', join(dir, 'g'))
  for (const entry of [f!, g!])
    t.throws(() => context.open(entry), {
      code: 'ERR_INVALID_REQUEST',
      message: /changed while it was read/,
    })
  rmSync(join(dir, 'g'))
  execFileSync('mkfifo', [join(dir, 'g')])
  t.throws(() => context.open(g!), { message: /changed/ }, 'a pipe does not block the build')
  const fresh = open(dir)
  t.same(
    (await fresh.read(fresh.root)).entries.map(({ path, kind }) => [path, kind]),
    [
      ['dir', 'link'],
      ['g', 'special'],
      ['old', 'directory'],
    ],
  )
  await t.rejects(select(fresh, ['']), {
    message: /"g" cannot be copied: a pipe; add it to \.dockerignore/,
  })
})

t.test('sockets are skipped, names that are not UTF-8 rejected', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'context-')) // a socket's path is short
  t.teardown(() => {
    rmSync(dir, { recursive: true })
  })
  writeFileSync(join(dir, 'a'), 'a')
  const server = createServer()
  await new Promise<void>((resolve) => {
    server.listen(join(dir, 'sock'), resolve)
  })
  t.teardown(() => {
    server.close()
  })
  t.same(await namesOf(open(dir), ['']), ['a'])
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff])]), '')
  await t.rejects(select(open(dir), ['']), { message: /not UTF-8/ })
  t.same(await namesOf(open(dir), ['a']), ['a'], 'it is harmless unless selected')
})

t.test('Dockerfile and ignore file are found and read, but never outside the context', async (t) => {
  const root = t.testdir({
    Dockerfile: 'FROM outside',
    secret: 'x',
    context: {
      Dockerfile: 'FROM a',
      '.dockerignore': 'one',
      other: { 'b.Dockerfile': 'FROM b', 'b.Dockerfile.dockerignore': 'two' },
    },
    lower: { dockerfile: 'FROM l' },
    empty: {},
    linked: {},
    dir: { Dockerfile: {} },
  })
  const files = (contextDir: string, file?: string): { text: string; name: string; ignore: string } => {
    const { dockerfile, rules } = readBuildFiles({
      contextDir: join(root, contextDir),
      ...(file !== undefined && { file: join(root, file) }),
    })
    return {
      text: Buffer.from(dockerfile.content).toString(),
      name: dockerfile.name,
      ignore: ['one', 'two'].filter((path) => rules.judge(path, rules.root).isIgnored).join(),
    }
  }
  t.same(files('context'), { text: 'FROM a', name: 'Dockerfile', ignore: 'one' })
  t.match(
    files('context', 'context/other/b.Dockerfile'),
    { text: 'FROM b', ignore: 'two' },
    'the ignore file next to it takes precedence',
  )
  t.match(
    files('context', 'Dockerfile'),
    { text: 'FROM outside', ignore: 'one' },
    '-f can be outside the context',
  )
  t.match(files('lower'), { text: 'FROM l', name: 'dockerfile' })
  symlinkSync('../secret', join(root, 'linked', 'Dockerfile'))
  for (const [dir, why] of [
    ['empty', /does not exist; create one/],
    ['none', /no such folder/],
    ['linked', /leads out of the context/],
    ['dir', /is not a file/],
    ['secret', /is not a folder; name a Dockerfile with -f/],
  ] as const) {
    t.throws(() => files(dir), { code: 'ERR_INVALID_DOCKERFILE', message: why }, dir)
  }
  t.throws(() => files('context', 'none'), { message: /no such file/ })
  t.throws(() => open(join(root, 'none')), { code: 'ERR_INVALID_REQUEST', message: /no such folder/ })
  t.throws(() => open(join(root, 'secret')), { code: 'ERR_INVALID_REQUEST', message: /not a folder/ })
})

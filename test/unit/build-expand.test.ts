// Variables, quotes and escapes in a Dockerfile's arguments. The tables were compared with BuildKit's lexer
// on random inputs; these are the instructive cases.

import t from 'tap'
import { expand, VALUE_CHARACTERS_MAX } from '../../services/build/dockerfile/expand.ts'
import { parseHeredocMark, findHeredocs, heredocText } from '../../services/build/dockerfile/heredoc.ts'
import { parsePattern } from '../../services/build/dockerfile/shell-pattern.ts'

const VALUES: Readonly<Record<string, string>> = {
  x: 'foobar',
  empty: '',
  path: '/usr/local/lib/a.tar.gz',
  words: 'two words',
  star: 'a*b*c',
  한: 'ko',
  over: 'aXbXc',
}
const options = { lookup: (name: string) => VALUES[name], escape: '\\' }

function text(source: string): string {
  const result = expand(source, options)
  return 'problem' in result ? `!${result.problem}` : result.text
}

t.test('variables have their values, and unset ones are empty', async (t) => {
  const cases: ReadonlyArray<readonly [string, string]> = [
    ['$x', 'foobar'],
    ['${x}', 'foobar'],
    ['$x$x', 'foobarfoobar'],
    ['a${x}b', 'afoobarb'],
    ['$none', ''],
    ['a${none}b', 'ab'],
    ['$x.y', 'foobar.y'],
    ['$x_y', ''],
    ['$1abc', 'abc'],
    ['$@@', '@'],
    ['$', '$'],
    ['$.', '$.'],
    ['a$ b', 'a$ b'],
    ['$한', 'ko'],
    ['${x:-d}', 'foobar'],
    ['${empty:-d}', 'd'],
    ['${empty-d}', ''],
    ['${none:-d}', 'd'],
    ['${none-d}', 'd'],
    ['${none:-}', ''],
    ['${x:+w}', 'w'],
    ['${empty:+w}', ''],
    ['${empty+w}', 'w'],
    ['${none+w}', ''],
    ['${x:?e}', 'foobar'],
    ['${empty?e}', ''],
    ['${none:-${empty:-$x}}', 'foobar'],
    ['${none:-a b}', 'a b'],
    ['${none:-"}"}', '}'],
    ['${none:-\\}}', '}'],
  ]
  for (const [source, wanted] of cases) t.equal(text(source), wanted, source)
})

t.test('parts of a value can be removed or replaced', async (t) => {
  const cases: ReadonlyArray<readonly [string, string]> = [
    ['${path#*/}', 'usr/local/lib/a.tar.gz'],
    ['${path##*/}', 'a.tar.gz'],
    ['${path%.*}', '/usr/local/lib/a.tar'],
    ['${path%%.*}', '/usr/local/lib/a'],
    ['${path%/*}', '/usr/local/lib'],
    ['${path%%/*}', ''],
    ['${x#foo}', 'bar'],
    ['${x#bar}', 'foobar'],
    ['${x%bar}', 'foo'],
    ['${x#???}', 'bar'],
    ['${x#?}', 'oobar'],
    ['${x%}', 'foobar'],
    ['${star#*\\*}', 'b*c'],
    ['${star##*\\*}', 'c'],
    ['${star%\\**}', 'a*b'],
    ['${over/X/-}', 'a-bXc'],
    ['${over//X/-}', 'a-b-c'],
    ['${over//X/}', 'abc'],
    ['${over/b*/.}', 'aX.'],
    ['${path//\\//:}', ':usr:local:lib:a.tar.gz'],
    ['${path/\\/usr/}', '/local/lib/a.tar.gz'],
    ['${x/o*o/0}', 'f0bar'],
    ['${x//o/00}', 'f0000bar'],
    ['${none#x}', ''],
    ['${none/a/b}', ''],
    ['${x/z/$path}', 'foobar'],
    ['${x/foo/$empty}', 'bar'],
    ['${x/$none/^}', '^foobar'],
  ]
  for (const [source, wanted] of cases) t.equal(text(source), wanted, source)
})

t.test('quotes and escapes protect text and are removed', async (t) => {
  const cases: ReadonlyArray<readonly [string, string]> = [
    ["'$x'", '$x'],
    ['"$x"', 'foobar'],
    ['\\$x', '$x'],
    ['"\\$x"', '$x'],
    ["'\\$x'", '\\$x'],
    ['"a\\b"', 'a\\b'],
    ['a\\b', 'ab'],
    ['\\\\', '\\'],
    ['a\\', 'a'],
    [`"it's"`, "it's"],
    [`'say "hi"'`, 'say "hi"'],
    [`a"b 'c'"d`, "ab 'c'd"],
    ['"\\"q\\""', '"q"'],
    ['\\${}', '${}'],
    ['"${none:-"a"}"', 'a'],
  ]
  for (const [source, wanted] of cases) t.equal(text(source), wanted, source)
  const windows = expand('a`$x \\$x', { ...options, escape: '`' })
  t.match(windows, { text: 'a$x \\foobar' }, 'the other escape character')
})

t.test('invalid syntax is a problem with a reason', async (t) => {
  for (const [source, why] of [
    ['${x', /"}" is missing/],
    ['${', /"}" is missing/],
    ['${}', /is not a variable/],
    ['${{x}', /is not a variable/],
    ['${.}', /is not a variable/],
    ['${x:=d}', /not a supported expansion/],
    ['${x=d}', /not a supported expansion/],
    ['${x:#a}', /not a supported expansion/],
    ['${x!}', /not a supported expansion/],
    ['${x/a}', /"\/" is missing between/],
    ['${none:?}', /none: is not set/],
    ['${empty:?}', /empty: is empty/],
    ['${none?give $x}', /none: give foobar/],
    ["it's", /' is not closed/],
    ['"a', /" is not closed/],
    ['"a\\', /" is not closed/],
    ['${x#a\\b}', /not a valid escape/],
    ['${none:-${x', /"}" is missing/],
  ] as const)
    t.match(text(source), why, source)
})

t.test('words end at unprotected spaces, including those from a variable', async (t) => {
  for (const [source, wanted] of [
    ['a b  c', ['a', 'b', 'c']],
    ['$words x', ['two', 'words', 'x']],
    ['"$words" x', ['two words', 'x']],
    ['a\\ b c', ['a b', 'c']],
    ["'a b'c", ['a bc']],
    [' ', []],
    ['$none', []],
    ['a${none:-b c}', ['ab', 'c']],
  ] as const)
    t.match(expand(source, options), { words: wanted }, source)
})

t.test('unset variables are reported, unless the expression has a default', async (t) => {
  t.match(expand('$a ${b} ${c:-x} ${d+x} ${e#x} $x', options), { missing: ['a', 'b', 'e'] })
  t.match(
    expand('echo $a ${b:-c} "$x" \'$x\' a\\ b', {
      ...options,
      quotes: 'keep',
      keepEscapes: true,
      keepUnset: true,
    }),
    { text: 'echo $a ${b:-c} "foobar" \'$x\' a\\ b' },
    'or stay, for showing',
  )
})

t.test('no input makes expansion slow, deep or large', async (t) => {
  const nested = '${a:-'.repeat(10_000)
  t.match(text(nested), /deep/)
  t.match(text('${x//' + '*a'.repeat(600) + '/b}'), /longer than 1024/)
  const long = { lookup: () => 'a'.repeat(100_000), escape: '\\' }
  t.match(expand('$a$a', long), { problem: /longer than/ })
  t.match(expand('$a', { ...long, charactersMax: 10 }), { problem: /longer than 10/ })
  t.ok(VALUE_CHARACTERS_MAX <= 128 * 1024, 'at most the limit of execve')
  t.match(
    expand(`\${a//${'*a'.repeat(500)}b/}`, long),
    { text: 'a'.repeat(100_000) },
    'a pattern that takes exponential time with backtracking',
  )
  t.match(expand('"$a$a"', long), { problem: /longer than/ }, 'inside quotes, too')
  t.match(expand('${a##*}'.repeat(100), long), { problem: /too much text/ })
  t.type(parsePattern('a\\'), 'string')
})

t.test('heredocs are found as in BuildKit', async (t) => {
  for (const [line, wanted] of [
    ['RUN <<EOF', ['EOF']],
    ['RUN cat <<EOF > /x', ['EOF']],
    ['RUN <<A cat && <<B cat', ['A', 'B']],
    ['RUN << EOF', ['EOF']],
    ['RUN 3<<EOF cat', ['EOF']],
    ['COPY <<a <<"b" /c', ['a', 'b']],
    ['RUN cat <<<"text"', []],
    ['RUN cat <<< text', []],
    ['RUN echo "<<EOF"', []],
    ["RUN echo '<<EOF'", []],
    ['RUN echo $((1<<2))', []],
    ['RUN echo \\<<EOF', []],
    ['RUN a<<EOF', []],
    ["RUN echo it's <<EOF", []],
    ['RUN x', []],
  ] as const)
    t.same(
      findHeredocs(line).map(({ name }) => name),
      wanted,
      line,
    )
  t.match(parseHeredocMark('<<EOF'), { name: 'EOF', isExpanded: true, stripTabs: false })
  t.match(parseHeredocMark('<<-"EOF"'), { name: 'EOF', isExpanded: false, stripTabs: true })
  t.match(parseHeredocMark("<<'E F'"), { name: 'E F', isExpanded: false })
  t.match(parseHeredocMark('<<E"O"F'), { name: 'EOF', isExpanded: false })
  t.equal(parseHeredocMark('EOF'), undefined)
  t.equal(parseHeredocMark('<<'), undefined)
  t.equal(
    heredocText({ name: 'E', isExpanded: true, stripTabs: true, content: '\t\ta\n  \tb\n\tc\n' }),
    'a\n  \tb\nc\n',
  )
})

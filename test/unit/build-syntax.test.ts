// Dockerfiles as text: lines, flags, forms, heredocs and directives, and how errors are shown. The splitting
// was compared with BuildKit's parser on random files; these are the instructive cases.

import t from 'tap'
import { InvalidRequest } from '../../services/contract/errors.ts'
import { closest, excerpt, formatWarning } from '../../services/build/dockerfile/build-failure.ts'
import { parseDockerfile, parseTrigger, STAGES_MAX } from '../../services/build/dockerfile/dockerfile.ts'
import type { Instruction } from '../../services/build/dockerfile/instructions.ts'
import {
  DOCKERFILE_BYTES_MAX,
  HEREDOC_BYTES_MAX,
  LINE_CHARACTERS_MAX,
} from '../../services/build/dockerfile/lines.ts'
import { splitCommas } from '../../services/build/dockerfile/words.ts'
import { describeFailure, failureOf } from '../../services/cli/failure.ts'

/** The instructions of the one stage of LINES after FROM scratch. */
function instructions(lines: string): readonly Instruction[] {
  return parseDockerfile('Dockerfile', `FROM scratch\n${lines}`).stages[0]!.instructions
}

function faultOf(text: string | Uint8Array): { path: string; problem: string; excerpt?: string } {
  try {
    parseDockerfile('Dockerfile', text)
  } catch (err) {
    if (err instanceof InvalidRequest && err.code === 'ERR_INVALID_DOCKERFILE') return err.faults[0]!
    throw err
  }
  return { path: '', problem: 'nothing is wrong' }
}

const rules = (text: string): string[] => parseDockerfile('Dockerfile', text).warnings.map(({ rule }) => rule)

t.test('lines are joined, without the comments and empty lines in between', async (t) => {
  for (const [text, script] of [
    ['RUN a \\\n  b', 'a   b'],
    ['RUN a \\\n# comment\n  # another\n  b', 'a   b'],
    ['RUN a \\\n\n  b', 'a   b'],
    ['RUN a \\  \n  b', 'a   b'],
    ['RUN a\\\nb', 'ab'],
    ['RUN a \\\\\n', 'a \\\\'],
    ['  run   a  ', 'a'],
    ['RUN a # b', 'a # b'],
    ['RUN a \\', 'a'],
    ['RUN a \\\r\n b\r\n', 'a  b'],
    ['\\\nRUN a', 'a'],
    ['RUN a \\\n#x', 'a'],
  ] as const)
    t.match(instructions(text), [{ kind: 'run', command: { form: 'shell', script } }], JSON.stringify(text))
  t.match(instructions('# c\n\nRUN a \\\n  b\nRUN c'), [
    { location: { line: 4, endLine: 5 } },
    { location: { line: 6, endLine: 6 } },
  ])
  t.same(rules('FROM scratch\nRUN a \\\n\n b'), ['NoEmptyContinuation'])
  t.match(
    parseDockerfile('Dockerfile', Buffer.from('\uFEFFFROM scratch')).stages,
    [{ from: { base: 'scratch' } }],
    'a byte order mark',
  )
})

t.test('directives come first and once, and the escape character is one of two', async (t) => {
  t.match(
    parseDockerfile('Dockerfile', '#escape=`\nFROM scratch\nRUN a `\n b \\\nRUN c').stages[0]!.instructions,
    [{ command: { script: 'a  b \\' } }, { command: { script: 'c' } }],
  )
  t.match(parseDockerfile('Dockerfile', '# Syntax = docker/dockerfile:1\n# escape = `\nFROM scratch'), {
    directives: { escape: '`', syntax: 'docker/dockerfile:1' },
    warnings: [],
  })
  t.same(rules('# syntax=example.com/other\nFROM scratch'), ['SyntaxIgnored'])
  t.match(
    parseDockerfile('Dockerfile', '# just a comment\n# escape=`\nFROM scratch').directives.escape,
    '\\',
    'after a comment it is a comment',
  )
  t.match(
    parseDockerfile('Dockerfile', '\n# escape=`\nFROM scratch').directives.escape,
    '\\',
    'after an empty line, too',
  )
  t.match(faultOf('# escape=x\nFROM scratch'), { path: 'Dockerfile:1', problem: /not "x"/ })
  t.match(faultOf('# escape=`\n# escape=`\nFROM scratch'), { path: 'Dockerfile:2', problem: /repeated/ })
  t.same(rules('# check=skip=MaintainerDeprecated\nFROM scratch\nMAINTAINER me'), [])
  t.same(rules('# check=skip=all\nFROM scratch\nMAINTAINER me'), [])
  t.match(faultOf('# check=error=true\nFROM scratch\nMAINTAINER me'), {
    path: 'Dockerfile:3',
    problem: /deprecated.*MaintainerDeprecated/,
  })
})

t.test('every instruction is parsed in all its forms', async (t) => {
  for (const [text, wanted] of [
    ['RUN ["a", "b c"]', { kind: 'run', command: { form: 'exec', argv: ['a', 'b c'] } }],
    ['RUN [ -f x ] && y', { kind: 'run', command: { form: 'shell', script: '[ -f x ] && y' } }],
    [
      'RUN --network=none --mount=type=cache,target=/c --mount=from=b,target=/d x',
      {
        network: 'none',
        mounts: [{ text: 'type=cache,target=/c' }, { from: 'b' }],
        command: { script: 'x' },
      },
    ],
    [
      'RUN --mount="type=secret,id=a b" -- --x',
      { mounts: [{ text: 'type=secret,id=a b' }], command: { script: '--x' } },
    ],
    [
      'COPY a b /c/',
      {
        kind: 'copy',
        sources: ['a', 'b'],
        destination: '/c/',
        isLinked: false,
        keepsParents: false,
        excludes: [],
      },
    ],
    ['COPY ["a b", "/c d"]', { sources: ['a b'], destination: '/c d' }],
    [
      'COPY --from=x --chown=1:2 --chmod=0755 --link --parents --exclude=*.a --exclude=b a b/',
      { from: 'x', chown: '1:2', chmod: '0755', isLinked: true, keepsParents: true, excludes: ['*.a', 'b'] },
    ],
    ['COPY --link=false a b', { isLinked: false }],
    [
      'ADD --checksum=sha256:a --keep-git-dir=true --unpack=false https://x/y /z',
      { kind: 'add', checksum: 'sha256:a', unpack: false },
    ],
    [
      'ENV a=b c="d e" f=\\ g',
      {
        kind: 'env',
        pairs: [
          { name: 'a', value: 'b' },
          { name: 'c', value: '"d e"' },
          { name: 'f', value: '\\ g' },
        ],
      },
    ],
    ['ENV a b=c  d', { pairs: [{ name: 'a', value: 'b=c  d' }] }],
    ['LABEL "a b"=c', { kind: 'label', pairs: [{ name: '"a b"', value: 'c' }] }],
    [
      'ARG a b=c d="e f"',
      { kind: 'arg', args: [{ name: 'a' }, { name: 'b', value: 'c' }, { name: 'd', value: '"e f"' }] },
    ],
    ['CMD', undefined],
    ['CMD []', { kind: 'cmd', command: { form: 'exec', argv: [] } }],
    ['ENTRYPOINT a b', { kind: 'entrypoint', command: { form: 'shell', script: 'a b' } }],
    ['WORKDIR /a b', { kind: 'workdir', word: '/a b' }],
    ['USER a:b', { kind: 'user', word: 'a:b' }],
    ['STOPSIGNAL 9', { kind: 'stopsignal', word: '9' }],
    ['EXPOSE 80 53/udp', { kind: 'expose', words: ['80', '53/udp'] }],
    ['VOLUME /a /b', { kind: 'volume', words: ['/a', '/b'] }],
    ['VOLUME ["/a b"]', { words: ['/a b'] }],
    ['SHELL ["bash", "-c"]', { kind: 'shell', words: ['bash', '-c'] }],
    ['MAINTAINER me <a@b>', { kind: 'maintainer', word: 'me <a@b>' }],
    ['HEALTHCHECK NONE', { healthcheck: { test: ['NONE'] } }],
    [
      'HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=2h --start-interval=1s --retries=3 CMD a b',
      {
        healthcheck: {
          test: ['CMD-SHELL', 'a b'],
          intervalNs: 90e9,
          timeoutNs: 5e8,
          startPeriodNs: 7200e9,
          startIntervalNs: 1e9,
          retries: 3,
        },
      },
    ],
    ['HEALTHCHECK cmd ["a"]', { healthcheck: { test: ['CMD', 'a'] } }],
    [
      'onbuild copy --from=x a b',
      { kind: 'onbuild', trigger: 'copy --from=x a b', inner: { kind: 'copy', from: 'x' } },
    ],
  ] as const) {
    if (wanted === undefined) t.throws(() => instructions(text), text)
    else t.match(instructions(text), [wanted], text)
  }
  t.match(parseDockerfile('Dockerfile', 'ARG V=1\nFROM --platform=linux/arm64 a:$V as Build'), {
    metaArgs: [{ args: [{ name: 'V' }] }],
    stages: [{ from: { base: 'a:$V', stageName: 'build', platform: 'linux/arm64' } }],
  })
})

t.test('heredocs are taken unchanged, several of one line in order', async (t) => {
  t.match(instructions('RUN <<EOF\n# no comment\na \\\n\nEOF\nRUN b'), [
    { heredocs: [{ name: 'EOF', content: '# no comment\na \\\n\n' }], location: { line: 2, endLine: 6 } },
    { command: { script: 'b' } },
  ])
  t.match(instructions('COPY <<a <<-"b" /c/\n1\na\n\t2\n\tb\n'), [
    {
      sources: [],
      destination: '/c/',
      heredocs: [
        { name: 'a', content: '1\n', isExpanded: true },
        { name: 'b', content: '\t2\n', isExpanded: false },
      ],
    },
  ])
  t.match(
    instructions('ADD x <<a /c/\nk\na'),
    [{ sources: ['x'], heredocs: [{ content: 'k\n' }] }],
    'without a newline at the end',
  )
  t.match(instructions('RUN <<EOF\r\na\r\nEOF\r\n'), [{ heredocs: [{ content: 'a\r\n' }] }])
  t.match(instructions('RUN ["a", "<<EOF"]'), [{ heredocs: [] }])
  t.match(instructions('CMD cat <<EOF'), [{ kind: 'cmd' }], 'only RUN, COPY and ADD have them')
  t.match(instructions('ONBUILD RUN <<EOF\na\nEOF\nUSER b'), [
    { trigger: 'RUN <<EOF\na\nEOF', inner: { heredocs: [{ content: 'a\n' }] } },
    { kind: 'user' },
  ])
  t.match(
    parseTrigger('base', 'RUN <<EOF\na\nEOF', () => {}),
    { kind: 'run', heredocs: [{ content: 'a\n' }] },
    'a trigger reads back',
  )
  for (const trigger of ['', 'FROM x', 'RUN a\nRUN b', 'ONBUILD RUN a', 'NO a'])
    t.throws(() => parseTrigger('base', trigger, () => {}), { code: 'ERR_INVALID_DOCKERFILE' }, trigger)
})

t.test('an invalid line is shown with its number, the problem, and a suggestion', async (t) => {
  for (const [text, path, problem] of [
    ['', 'Dockerfile', /no instructions/],
    ['# only\n\n', 'Dockerfile', /no instructions/],
    ['ARG a', 'Dockerfile:1', /no FROM/],
    ['RUN a', 'Dockerfile:1', /before the first FROM/],
    ['FROM a\nCOPPY b c', 'Dockerfile:2', /no instruction "COPPY"; did you mean COPY\?/],
    ['FROM a\n\nentripoint b', 'Dockerfile:3', /did you mean ENTRYPOINT\?/],
    ['FROM a\nCD /b', 'Dockerfile:2', /did you mean WORKDIR\?/],
    ['FROM a\nRUN b\n  && c', 'Dockerfile:3', /no instruction "&&".*end it with \\/],
    ['FROM', 'Dockerfile:1', /needs an image/],
    ['FROM a b', 'Dockerfile:1', /more than one image/],
    ['FROM a AS 1b', 'Dockerfile:1', /"1b" is not a valid stage name/],
    ['FROM a\nCOPY --form=b c d', 'Dockerfile:2', /no flag "--form"; did you mean --from\?/],
    ['FROM a\nWORKDIR --x /b', 'Dockerfile:2', /no flags at all/],
    ['FROM a\nCOPY --link=x b c', 'Dockerfile:2', /true or false/],
    ['FROM a\nCOPY --from b c', 'Dockerfile:2', /--from has no value/],
    ['FROM a\nCOPY --chown=a --chown=b c d', 'Dockerfile:2', /repeated/],
    ['FROM a\nCOPY --from=$x b c', 'Dockerfile:2', /variables are not allowed/],
    ['FROM a\nCOPY b', 'Dockerfile:2', /source and a destination; write COPY b \.\//],
    ['FROM a\nCOPY', 'Dockerfile:2', /source and a destination/],
    ['FROM a\nRUN', 'Dockerfile:2', /needs an argument/],
    ['FROM a\nUSER', 'Dockerfile:2', /needs an argument/],
    ['FROM a\nENV b', 'Dockerfile:2', /must be name=value/],
    ['FROM a\nENV b=c d', 'Dockerfile:2', /"d" must be name=value/],
    ['FROM a\nENV =c', 'Dockerfile:2', /without a name/],
    ['FROM a\nARG =c', 'Dockerfile:2', /without a name/],
    ['FROM a\nSHELL bash -c', 'Dockerfile:2', /JSON array.*double quotes/],
    ["FROM a\nSHELL ['bash']", 'Dockerfile:2', /JSON array/],
    ['FROM a\nCMD ["b", 1]', 'Dockerfile:2', /only strings/],
    ['FROM a\nVOLUME []', 'Dockerfile:2', /needs a path/],
    ['FROM a\nHEALTHCHECK', 'Dockerfile:2', /CMD or NONE/],
    ['FROM a\nHEALTHCHECK CDM b', 'Dockerfile:2', /did you mean CMD\?/],
    ['FROM a\nHEALTHCHECK CMD', 'Dockerfile:2', /needs a command/],
    ['FROM a\nHEALTHCHECK NONE b', 'Dockerfile:2', /no arguments/],
    ['FROM a\nHEALTHCHECK --interval=5 CMD b', 'Dockerfile:2', /not a valid duration/],
    ['FROM a\nHEALTHCHECK --interval=1us CMD b', 'Dockerfile:2', /at least 1ms/],
    ['FROM a\nHEALTHCHECK --retries=-1 CMD b', 'Dockerfile:2', /not a valid number/],
    ['FROM a\nRUN <<EOF\nb', 'Dockerfile:2', /"EOF" has no end/],
    ['FROM a\nCOPY x <<EOF\nEOF', 'Dockerfile:2', /destination is a heredoc/],
    ['FROM a\nCOPY <<../x /y\n../x', 'Dockerfile:2', /is invalid/],
    ['FROM a\nRUN --mount=type=ssh b', 'Dockerfile:2', /ssh is not supported/],
    ['FROM a\nRUN --mount=type=cahce,target=/b c', 'Dockerfile:2', /did you mean cache\?/],
    ['FROM a\nRUN --mount=traget=/b c', 'Dockerfile:2', /did you mean target\?/],
    ['FROM a\nRUN --security=insecure b', 'Dockerfile:2', /not supported/],
    ['FROM a\nRUN --network=bridge b', 'Dockerfile:2', /default, none or host/],
    ['FROM a\nONBUILD ONBUILD RUN b', 'Dockerfile:2', /not allowed/],
    ['FROM a\nONBUILD FROM b', 'Dockerfile:2', /not allowed/],
    ['FROM a\nONBUILD COPPY b c', 'Dockerfile:2', /did you mean COPY\?/],
    ['FROM a\nRUN b\0c', 'Dockerfile:2', /NUL/],
  ] as const)
    t.match(faultOf(text), { path, problem }, JSON.stringify(text))
  t.match(faultOf(Buffer.from('FROM a\nRUN caf\xe9', 'latin1')), {
    path: 'Dockerfile:2',
    problem: /not UTF-8/,
  })
  t.match(faultOf(Buffer.from('\uFEFFFROM a', 'utf16le')), { path: 'Dockerfile', problem: /UTF-16/ })
})

t.test('an excerpt has the lines around, carets below the word, and no control characters', async (t) => {
  t.equal(
    faultOf('FROM a\n\nRUN x \\\n  y\nCOPPY b c\nRUN z\nUSER u\nUSER v').excerpt,
    [
      '     3 | RUN x \\',
      '     4 |   y',
      '>    5 | COPPY b c',
      '       | ^^^^^',
      '     6 | RUN z',
      '     7 | USER u',
    ].join('\n'),
  )
  t.match(
    excerpt({ source: { name: 'D', lines: ['LABEL 日本 🎉x'] }, location: { line: 1, endLine: 1 } }, '🎉x'),
    /\n {7}\| {12}\^{3}$/,
    'carets line up with wide characters',
  )
  const evil = faultOf('FROM a\nRUNN \u001b[31mred\u202e\n')
  for (const hidden of ['\u001b', '\u202e']) t.notOk(evil.excerpt!.includes(hidden))
  const long = faultOf(`FROM a\nRUNN ${'x'.repeat(1000)}\n${'y\\\n'.repeat(100)}`)
  t.ok(long.excerpt!.split('\n').every((line) => line.length < 200))
  const source = { name: 'D', lines: Array.from({ length: 100 }, (_, i) => `line ${i + 1}`) }
  t.ok(
    excerpt({ source, location: { line: 10, endLine: 90 } }).split('\n').length < 20,
    'a long instruction is truncated',
  )
  const shown = describeFailure(
    failureOf(
      'build',
      (() => {
        try {
          return parseDockerfile('Dockerfile', 'FORM a')
        } catch (err) {
          return err
        }
      })(),
    ),
  )
  t.equal(
    shown,
    'wherry: build: invalid input\n  Dockerfile:1: there is no instruction "FORM"; did you mean FROM?\n\n>    1 | FORM a\n       | ^^^^\n\n',
    'as the command line prints it',
  )
})

t.test('bad style is a warning', async (t) => {
  for (const [text, wanted] of [
    ['FROM a\nMAINTAINER b', ['MaintainerDeprecated']],
    ['FROM a\nENV b c', ['LegacyKeyValueFormat']],
    ["FROM a\nCMD ['b']", ['JSONArgsRecommended']],
    ['FROM a\nRUN ["b",]', ['JSONArgsRecommended']],
    ["FROM a\nCOPY ['b', 'c']", ['JSONArgsRecommended']],
    [
      'FROM a\nARG DB_PASSWORD\nENV API_TOKEN=1 PUBLIC_KEY=2',
      ['SecretsUsedInArgOrEnv', 'SecretsUsedInArgOrEnv'],
    ],
    ['FROM a AS b\nFROM a AS B', ['DuplicateStageName']],
    ['FROM a AS scratch', ['ReservedStageName']],
    ['FROM a\nCMD ["b"]\nCMD ["c"]', ['MultipleInstructionsDisallowed']],
    ['FROM a\nRUN [ -d /x ] && y\nCOPY [ab]* /c/', []],
  ] as const)
    t.same(rules(text), wanted, text)
  const [warning] = parseDockerfile('Dockerfile', 'FROM a\nMAINTAINER b').warnings
  t.match(formatWarning(warning!), /^Dockerfile:2: .* \(MaintainerDeprecated\)$/)
  t.equal(closest('cpoy', ['copy', 'cmd']), 'copy')
  t.equal(closest('xyzzy', ['copy', 'cmd']), undefined)
})

t.test('everything has a limit', async (t) => {
  t.match(faultOf(`FROM a\n#${'x'.repeat(DOCKERFILE_BYTES_MAX)}`), { problem: /the limit/ })
  t.match(faultOf(`FROM a\nRUN ${'x'.repeat(LINE_CHARACTERS_MAX)}`), {
    path: 'Dockerfile:2',
    problem: /the limit/,
  })
  t.match(faultOf('FROM a\n'.repeat(STAGES_MAX + 1)), { problem: /stages/ })
  t.match(faultOf(`FROM a\n${'USER b\n'.repeat(2001)}`), { problem: /instructions/ })
  t.match(faultOf('\n'.repeat(60_000)), { problem: /lines/ })
  t.match(faultOf(`FROM a\nRUN ${'<<a '.repeat(101)}`), { problem: /heredocs/ })
  t.match(faultOf(`FROM a\nCOPY <<E /x\n${`${'y'.repeat(1000)}\n`.repeat(HEREDOC_BYTES_MAX / 1000)}E\n`), {
    problem: /longer/,
  })
  t.match(faultOf(`FROM a\nRUN ${'--mount=target=/x '.repeat(65)}y`), { problem: /65 mounts/ })
  t.same(splitCommas('a,"b,""c",d'), ['a', 'b,"c', 'd'])
  t.equal(splitCommas('a,"b'), undefined)
})

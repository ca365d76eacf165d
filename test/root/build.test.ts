// The steps of wherry build, with real containers and overlays, on a base image from busybox.

import { execFileSync, spawnSync } from 'node:child_process'
import { createServer } from 'node:http'
import { release } from 'node:os'
import t, { type Test } from 'tap'
import type { BuildEvent } from '../../services/build/progress.ts'
import { BASE, buildRig, type BuildRig } from '../helpers/build.ts'
import { needsRoot } from '../helpers/container.ts'
import { tar } from '../helpers/layer.ts'

/** A Dockerfile of FROM base and LINES. */
const onBase = (...lines: readonly string[]): string => `${BASE}${lines.join('\n')}\n`

async function runs(t: Test, rig: BuildRig): Promise<void> {
  await t.test('in shell form, exec form and as heredocs', async (t) => {
    const built = await rig.build(
      onBase(
        'RUN echo one >/one && rm /etc/group',
        'RUN ["/bin/touch", "/two words"]',
        'RUN <<END',
        'set -e',
        'echo "three" >/three',
        'END',
        'RUN <<END',
        '#!/bin/awk -f',
        'BEGIN { print "four" >"/four" }',
        'END',
        'SHELL ["/bin/busybox", "ash", "-ec"]',
        'RUN false || echo five >/five',
      ),
    )
    const tree = await rig.tree(built)
    for (const path of ['one', 'two words', 'three', 'four', 'five']) t.ok(tree.has(path), path)
    t.notOk(tree.has('etc/group'), 'a removed file is gone')
    t.equal(await rig.text(built, '/four'), 'four\n')
    for (const path of ['.wherry', 'dev', 'proc', 'etc/resolv.conf', 'etc/hosts'])
      t.notOk(tree.has(path), `mount points leave nothing: ${path}`)
  })

  await t.test('with Docker’s capabilities over its files and none over the host', async (t) => {
    const { output } = await rig.build(
      onBase(
        'RUN id -u; chown 5:7 /etc/passwd; mkfifo /pipe; cat /proc/self/status /proc/self/uid_map',
        'RUN mount -t tmpfs x /mnt 2>&- || echo no mount; mknod /disk b 8 0 2>&- || echo no device; chroot / true && echo chroot',
        'RUN (echo x >/proc/sys/kernel/hostname) 2>&- || echo no setting',
      ),
    )
    t.match(output, /^0\n/)
    t.match(output, /CapEff:\s+00000000a80425fb\n/)
    t.match(output, /CapBnd:\s+00000000a80425fb\n/)
    t.match(output, /Seccomp:\s+2\n/)
    t.match(output, /^ +0 +[1-9]\d{7,} +65536$/m, 'root is another user outside')
    t.match(output, /no mount\nno device\nchroot\nno setting\n/)
  })

  await t.test('as the user and in the folder given in the Dockerfile', async (t) => {
    const built = await rig.build(
      onBase(
        'RUN echo "app:x:1000:1000::/srv/app:/bin/sh" >>/etc/passwd; echo "app:x:1000:" >>/etc/group',
        'USER app',
        'WORKDIR /srv/app',
        'WORKDIR data',
        'RUN echo "$HOME $PWD $(id -u):$(id -g)" >out',
      ),
    )
    t.equal(await rig.text(built, '/srv/app/data/out'), '/srv/app /srv/app/data 1000:1000\n')
    t.match((await rig.tree(built)).get('srv/app/data'), { uid: 1000, gid: 1000, mode: 0o755 })
    t.match(await rig.config(built), { config: { User: 'app', WorkingDir: '/srv/app/data' } })
  })

  await t.test('with variables, of which ENV stays in the image and ARG does not', async (t) => {
    const dockerfile = `ARG TOP=top\n${onBase('ARG TOP', 'ARG GIVEN=default', 'ENV KEPT="a b"', 'RUN echo "$TOP $GIVEN $KEPT" >/out')}`
    const built = await rig.build(
      dockerfile,
      {},
      {
        buildArgs: new Map([
          ['GIVEN', 'given'],
          ['HTTP_PROXY', 'http://proxy'],
          ['TYPO', 'x'],
        ]),
      },
    )
    t.equal(await rig.text(built, '/out'), 'top given a b\n')
    t.strictSame((await rig.config(built)).config['Env'], ['PATH=/bin', 'KEPT=a b'])
    t.match(built.warnings, [/"TYPO" is not used by any ARG/])
    const warnings: string[] = []
    const onEvent = (event: BuildEvent): void => {
      if (event.kind === 'warning') warnings.push(event.text)
    }
    await t.rejects(rig.build(onBase('MAINTAINER me', 'COPY nothing /'), {}, { onEvent }), {
      code: 'ERR_INVALID_DOCKERFILE',
    })
    t.match(warnings, [/^Dockerfile:2: MAINTAINER is deprecated/], 'a failing build also warns')
  })

  await t.test('with the host’s network or with none', async (t) => {
    const none = await rig.build(
      onBase('RUN --network=none cat /proc/net/dev; cat /etc/hosts'),
      {},
      { network: 'host' },
    )
    t.match(none.output, /lo:/)
    t.notMatch(none.output, /eth|ens|wl/)
    t.match(none.output, /localhost/)
    const server = createServer((_, response) => {
      response.end('over the network')
    })
    const url = await listen(t, server)
    t.match(
      (await rig.build(onBase(`RUN wget -q -O - ${url}`), {}, { network: 'host' })).output,
      /over the network/,
    )
    await t.rejects(rig.build(onBase(`RUN wget -q -O - ${url}`)), {
      name: 'BuildStepFailed',
      path: 'Dockerfile:2',
    })
  })
}

function listen(t: Test, server: ReturnType<typeof createServer>): Promise<string> {
  t.teardown(() => {
    server.close()
  })
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      resolve(typeof address === 'object' && address !== null ? `http://127.0.0.1:${address.port}` : '')
    })
  })
}

async function copies(t: Test, rig: BuildRig): Promise<void> {
  await t.test('with wildcards, .dockerignore, owners and modes', async (t) => {
    const built = await rig.build(
      onBase(
        'COPY src /app/',
        'COPY --chown=1000:5 --chmod=u=rwX,go= *.txt /txt/',
        'COPY --chown=nobody src/a.js /named',
        'COPY src/a.js /app',
        'COPY <<one <<two /heredocs/',
        '1',
        'one',
        '2',
        'two',
        'COPY --parents src/./deep src/*.js /parents/',
      ),
      {
        'src/a.js': 'a',
        'src/deep/b.txt': 'b',
        'src/deep/skip.log': 'x',
        'x.txt': 'x',
        'y.txt': 'y',
        '.dockerignore': '**/*.log\n',
      },
    )
    const tree = await rig.tree(built)
    t.match(tree.get('app/a.js'), { uid: 0, gid: 0, mode: 0o644 })
    t.ok(tree.has('app/deep/b.txt'))
    t.notOk(
      [...tree.keys()].some((path) => path.endsWith('.log')),
      'ignored files are not copied',
    )
    t.match(tree.get('txt/x.txt'), { uid: 1000, gid: 5, mode: 0o600 })
    t.match(tree.get('txt/y.txt'), { uid: 1000, gid: 5 })
    t.match(tree.get('named'), { uid: 65534, gid: 65534, type: 'file' })
    t.equal(await rig.text(built, '/heredocs/two'), '2\n')
    t.ok(tree.has('parents/deep/b.txt'))
    t.ok(tree.has('parents/src/a.js'))
  })

  await t.test('through links inside the image, and never out of the context', async (t) => {
    const built = await rig.build(
      onBase(
        'RUN mkdir -p /usr/real && ln -s usr/real /inner && ln -s /usr /abs && ln -s ../../../../usr/real /up',
        'COPY a /inner/a',
        'COPY a /abs/real/b',
        'COPY a /up/c',
        'COPY link /kept/',
        'COPY dir /dir',
      ),
      { a: 'a', link: { link: 'a' }, 'dir/l': { link: '/etc/passwd' } },
    )
    const tree = await rig.tree(built)
    for (const path of ['usr/real/a', 'usr/real/b', 'usr/real/c']) t.equal(tree.get(path)?.type, 'file', path)
    t.equal(tree.get('inner')?.type, 'link', 'the links are still there')
    t.equal(await rig.text(built, '/kept/link'), 'a', 'a link named as source is followed')
    t.match(tree.get('dir/l'), { type: 'link', link: '/etc/passwd' }, 'one in a folder is copied as a link')
    await t.rejects(rig.build(onBase('COPY out /x'), { out: { link: '/etc/passwd' } }), {
      message: /^Dockerfile:2: .*there is no "etc/,
    })
    await t.rejects(rig.build(onBase('COPY ../../etc/passwd /x')), { message: /there is no "etc/ })
  })

  await t.test('names the line of a missing file, and a similar name', async (t) => {
    await t.rejects(rig.build(onBase('', 'COPY hallo.txt /'), { 'hello.txt': '' }), {
      code: 'ERR_INVALID_DOCKERFILE',
      message: /^Dockerfile:3: there is no "hallo.txt" in the context; did you mean hello.txt/,
    })
    await t.rejects(rig.build(onBase('COPY a /bin/busybox/x'), { a: '' }), {
      name: 'BuildStepFailed',
      path: 'Dockerfile:2',
      message: /not a directory/,
    })
    await t.rejects(rig.build(onBase('COPY --chown=ghost a /'), { a: '' }), { message: /no user "ghost"/ })
    await t.rejects(rig.build(onBase('COPY a /etc'), { 'a/passwd/x': '' }), { message: /"etc\/passwd"/ })
    await t.rejects(rig.build(onBase('COPY a /'), { 'a/etc': '' }), {
      message: /is a directory in the image/,
    })
  })
}

async function stages(t: Test, rig: BuildRig): Promise<void> {
  await t.test('with owners, modes, links and attributes, without building unneeded stages', async (t) => {
    const built = await rig.build(
      [
        'FROM base AS maker',
        'RUN mkdir -p /out/sub && echo x >/out/sub/f && ln /out/sub/f /out/hard && ln -s sub/f /out/soft && chown -R 3:4 /out && chmod 4711 /out/sub/f',
        'FROM base AS unused',
        'RUN exit 1',
        'FROM scratch AS final',
        'COPY --from=maker /out /',
        'COPY --from=0 /out/su* /wild/',
        'COPY --from=base /bin/busybox /tool',
        '',
      ].join('\n'),
    )
    const tree = await rig.tree(built)
    t.match(tree.get('sub/f'), { uid: 3, gid: 4, mode: 0o4711 })
    t.match(tree.get('hard'), { uid: 3, mode: 0o4711, type: 'file' })
    t.match(tree.get('soft'), { type: 'link', link: 'sub/f' })
    t.ok(tree.has('wild/f'), 'contents of a folder that a wildcard matched')
    t.match(tree.get('tool'), { type: 'file', mode: 0o755 }, 'from an image')
    t.equal(rig.layers(built).length, 3)
    await t.rejects(rig.build('FROM base AS maker\nFROM scratch\nCOPY --from=maker /bim/busybox /\n'), {
      message: /there is no "bim" in the stage maker; did you mean bin/,
    })
  })

  await t.test('with file capabilities and other attributes, byte for byte', async (t) => {
    const pax = {
      'SCHILY.xattr.security.capability': Buffer.from('0100000200200000000000000000000000000000', 'hex'),
      'SCHILY.xattr.user.note': Buffer.from([0, 255, 10]),
    }
    const archive = tar([
      { name: 'with', data: 'x', pax },
      { name: 'without', data: 'x' },
    ])
    const built = await rig.build(
      'FROM base AS one\nADD a.tar /\nRUN touch /with\nFROM scratch\nCOPY --from=one /with /without /to/\nCOPY --from=one --chown=5 /with /owned\n',
      { 'a.tar': archive },
    )
    const tree = await rig.tree(built)
    t.not(tree.get('to/with')?.digest, tree.get('to/without')?.digest, 'a digest of contents and attributes')
    t.equal(tree.get('owned')?.digest, tree.get('to/with')?.digest)
    const packed = execFileSync('zcat', [
      '-f',
      rig.store.blobPath(rig.store.catalog.image(built.image.digest)!.layers.at(-1)!.digest),
    ])
    for (const [key, value] of Object.entries(pax))
      t.ok(packed.includes(Buffer.concat([Buffer.from(`${key}=`), value, Buffer.from('\n')])), key)
  })

  await t.test('starts where another stage ended, and runs its triggers', async (t) => {
    const built = await rig.build(
      'FROM base AS parent\nENV WHO=parent\nONBUILD RUN echo "triggered $WHO" >/triggered\nFROM parent\nRUN cat /triggered\n',
    )
    t.match(built.output, /triggered parent/)
    t.notOk((await rig.config(built)).config['OnBuild'])
    const target = await rig.build(
      'FROM base AS one\nRUN echo 1 >/1\nFROM base\nRUN exit 1',
      {},
      { target: 'one' },
    )
    t.equal(await rig.text(target, '/1'), '1\n')
  })

  await t.test(
    'and reports the line of an image that could not be pulled, and a similar stage name',
    async (t) => {
      const message = /registry 127\.0\.0\.1:1 cannot be reached/
      await t.rejects(rig.build('# about\nFROM 127.0.0.1:1/none\n'), {
        name: 'BuildStepFailed',
        path: 'Dockerfile:2',
        message,
        excerpt: />    2 \| FROM 127/,
      })
      await t.rejects(rig.build(onBase('COPY --from=127.0.0.1:1/none /a /b')), {
        name: 'BuildStepFailed',
        path: 'Dockerfile:2',
        message,
      })
      await t.rejects(rig.build('FROM base AS localhost.x\nFROM base\nCOPY --from=localhost/x /a /b\n'), {
        path: 'Dockerfile:3',
        message: /did you mean the stage localhost\.x\?$/,
      })
    },
  )
}

async function adds(t: Test, rig: BuildRig): Promise<void> {
  const archive = tar([
    { name: 'd', type: '5', mode: 0o750 },
    { name: 'd/f', data: 'in the archive', uid: 12, gid: 13, mtime: 1_000_000 },
    { name: 'd/l', type: '2', link: '/etc/passwd' },
  ])
  await t.test('plain, gzip, bzip2 and xz, detected by content, not by name', async (t) => {
    const packed = Object.fromEntries(
      ['gzip', 'bzip2', 'xz'].map((program) => [
        `${program}.bin`,
        execFileSync(program, ['-c'], { input: archive }),
      ]),
    )
    const built = await rig.build(
      onBase(
        'ADD plain.bin /plain/',
        'ADD gzip.bin /gzip/',
        'ADD bzip2.bin /bzip2/',
        'ADD xz.bin /xz/',
        'ADD notes.tar.gz /notes.tar.gz',
        'ADD --unpack=false plain.bin /kept/',
      ),
      { 'plain.bin': archive, ...packed, 'notes.tar.gz': 'only a name' },
    )
    const tree = await rig.tree(built)
    for (const name of ['plain', 'gzip', 'bzip2', 'xz'])
      t.match(tree.get(`${name}/d/f`), { uid: 12, gid: 13, type: 'file' }, name)
    t.match(tree.get('plain/d'), { mode: 0o750 })
    t.match(tree.get('plain/d/l'), { type: 'link', link: '/etc/passwd' })
    t.equal(await rig.text(built, '/notes.tar.gz'), 'only a name')
    t.equal(tree.get('kept/plain.bin')?.type, 'file')
  })

  await t.test('an archive cannot write outside its destination', async (t) => {
    const hostile = tar([
      { name: 'l', type: '2', link: '/etc' },
      { name: 'l/passwd', data: 'root::0:0::/:/bin/sh' },
    ])
    await t.rejects(rig.build(onBase('ADD a.tar /x/'), { 'a.tar': hostile }), {
      name: 'BuildStepFailed',
      path: 'Dockerfile:2',
      message: /leads out|symbolic link/,
    })
    await t.rejects(rig.build(onBase('ADD a.tar /x/'), { 'a.tar': tar([{ name: '../up', data: 'x' }]) }), {
      message: /".."/,
    })
  })

  await t.test('from URLs, checked', async (t) => {
    const url = await listen(
      t,
      createServer((request, response) => {
        if (request.url === '/moved') response.writeHead(302, { location: '/dir/file.txt?x=1' }).end()
        else if (request.url?.startsWith('/dir/file.txt'))
          response.writeHead(200, { 'last-modified': 'Sun, 09 Sep 2001 01:46:40 GMT' }).end('remote')
        else response.writeHead(404).end()
      }),
    )
    const other = `sha256:${'0'.repeat(64)}`
    const built = await rig.build(
      onBase(`ADD ${url}/dir/file.txt?q /into/`, `ADD --chmod=644 --chown=9:9 ${url}/moved /named`),
    )
    const tree = await rig.tree(built)
    t.match(tree.get('into/file.txt'), { mode: 0o600, uid: 0 })
    t.match(tree.get('named'), { mode: 0o644, uid: 9 })
    t.equal(await rig.text(built, '/named'), 'remote')
    await t.rejects(rig.build(onBase(`ADD --checksum=${other} ${url}/dir/file.txt /x`)), {
      name: 'BuildStepFailed',
      path: 'Dockerfile:2',
      message: /should have the checksum/,
    })
    await t.rejects(rig.build(onBase(`ADD ${url}/nothing /x`)), { message: /answered 404/ })
    await t.rejects(rig.build(onBase('ADD http://127.0.0.1:1/x /x')), {
      path: 'Dockerfile:2',
      message: /^http:\/\/127\.0\.0\.1:1\/x could not be downloaded: 127\.0\.0\.1:1 cannot be reached/,
    })
  })
}

async function mounts(t: Test, rig: BuildRig): Promise<void> {
  await t.test('secrets, in memory while the step runs and nowhere afterwards', async (t) => {
    const secret = 'correct horse battery staple'
    const [major = 0, minor = 0] = release().split('.').map(Number)
    if (major < 6 || (major === 6 && minor < 3)) {
      await t.rejects(
        rig.build(
          onBase('RUN --mount=type=secret,id=s true'),
          {},
          { secrets: new Map([['s', Buffer.from(secret)]]) },
        ),
        { message: /Linux 6\.3 or newer/ },
        'this kernel cannot, and the error says so',
      )
      return
    }
    const built = await rig.build(
      onBase(
        'RUN --mount=type=secret,id=s,mode=0440,uid=5 stat -c "%a %u" /run/secrets/s && cat /run/secrets/s | wc -c && grep secrets /proc/mounts',
        'RUN --mount=type=secret,id=s,env=IN_ENV --mount=type=secret,id=none echo "${#IN_ENV}"',
      ),
      {},
      { secrets: new Map([['s', Buffer.from(secret)]]) },
    )
    t.match(built.output, /^440 5\n28\ntmpfs \/run\/secrets\/s tmpfs ro/)
    t.match(built.output, /\n28\n$/)
    t.notOk((await rig.tree(built)).has('run'))
    t.equal(spawnSync('grep', ['-rq', secret, rig.data]).status, 1, 'not in layers, blobs, caches and drafts')
    t.notMatch(
      execFileSync('ls', ['/run', '/dev/shm'], { encoding: 'utf8' }),
      new RegExp(`wherry-secrets-${process.pid}-`),
    )
    await t.rejects(rig.build(onBase('RUN --mount=type=secret,id=must,required true')), {
      message: /secret "must" was not given/,
    })
  })

  await t.test('persistent caches, folders of the context and of stages, and tmpfs', async (t) => {
    const dockerfile = (word: string): string =>
      `FROM base AS other\nRUN mkdir /d && echo from other >/d/f\n${onBase(
        `RUN --mount=type=cache,target=/cache,uid=7,mode=0700 echo ${word} >>/cache/log; cat /cache/log; stat -c '%a %u' /cache`,
        'RUN --mount=target=/in,rw --mount=type=bind,source=one,target=/one --mount=type=tmpfs,target=/mem --mount=from=other,source=d,target=/stage ' +
          'ls /in; cat /one /stage/f; echo x >/in/new; (echo x >/one) 2>&- || echo read only; grep -c "/mem tmpfs" /proc/mounts',
      )}`
    const first = await rig.build(dockerfile('first'), { one: 'one\n' })
    t.match(first.output, /^first\n700 7\n/)
    t.match(first.output, /Dockerfile\none\none\nfrom other\nread only\n1\n/)
    const tree = await rig.tree(first)
    for (const path of ['cache', 'in', 'one', 'mem', 'stage']) t.notOk(tree.has(path), path)
    const second = await rig.build(dockerfile('second'), { one: 'two\n' })
    t.match(second.output, /^first\nsecond\n/, 'the cache persists')
    t.match(second.output, /two\nfrom other/, 'and bind mounts are part of the cache key')
  })
}

async function configs(t: Test, rig: BuildRig): Promise<void> {
  const built = await rig.build(
    onBase(
      'LABEL a=1 b="two words"',
      'EXPOSE 80 53/udp',
      'VOLUME /data',
      'STOPSIGNAL SIGINT',
      'HEALTHCHECK --interval=5s --retries=2 CMD wget -q localhost',
      'ENTRYPOINT ["/bin/sh", "-c"]',
      'CMD echo "$0"',
      'ONBUILD RUN true',
    ),
    {},
    {
      labels: new Map([['b', 'given']]),
      names: ['docker.io/library/configs:1', 'localhost:5000/configs:1'],
      clampSeconds: 1_000_000_000,
    },
  )
  const document = await rig.config(built)
  t.match(document, {
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    created: '2001-09-09T01:46:40.000Z',
  })
  t.match(document.config, {
    Labels: { a: '1', b: 'given' },
    ExposedPorts: { '80/tcp': {}, '53/udp': {} },
    Volumes: { '/data': {} },
    StopSignal: 'SIGINT',
    Healthcheck: { Test: ['CMD-SHELL', 'wget -q localhost'], Interval: 5e9, Retries: 2 },
    Entrypoint: ['/bin/sh', '-c'],
    Cmd: ['/bin/sh', '-c', 'echo "$0"'],
    OnBuild: ['RUN true'],
  })
  t.equal(
    document.history.filter((entry) => !entry.empty_layer).length,
    document.rootfs.diff_ids.length,
    'the history has an entry for each layer',
  )
  t.match(document.history.at(-1), { created_by: 'ONBUILD RUN true', empty_layer: true })
  t.equal(rig.store.catalog.find('docker.io/library/configs:1'), built.image.digest)
  t.equal(rig.store.catalog.find('localhost:5000/configs:1'), built.image.digest)
}

async function caches(t: Test, rig: BuildRig): Promise<void> {
  const dockerfile = (label: string): string =>
    onBase(`LABEL l=${label}`, 'COPY a /a', 'RUN cat /a >/b; date +%s >/when', 'RUN rm -f /nothing')
  const first = await rig.build(dockerfile('1'), { a: 'a' })
  const again = await rig.build(dockerfile('1'), { a: 'a' })
  t.match(
    { performed: again.performed, cached: again.cached },
    { performed: 1, cached: 3 },
    'only FROM looks',
  )
  t.equal(again.image.digest, first.image.digest, 'an unchanged build is the same image')
  t.match(
    await rig.build(dockerfile('2'), { a: 'a' }),
    { cached: 3 },
    'a changed label above changes no layer',
  )
  const changed = await rig.build(dockerfile('1'), { a: 'b' })
  t.equal(changed.cached, 0, 'a changed file changes all later layers')
  t.equal(await rig.text(changed, '/b'), 'b')
  t.match(await rig.build(dockerfile('1'), { a: 'a' }, { usesCache: false }), { cached: 0 })
  await t.test('and two builds from scratch give the same image with SOURCE_DATE_EPOCH', async (t) => {
    const from = onBase(
      'WORKDIR /w',
      'COPY . .',
      'RUN mkdir d && echo x >d/x && ln d/x d/y && mkfifo p && rm /etc/group',
      'ADD --chown=3:4 a /new/dir/',
    )
    const options = { usesCache: false, clampSeconds: 1_600_000_000 }
    const one = await rig.build(from, { a: 'a', 'b/c': 'c' }, options)
    const two = await rig.build(from, { a: 'a', 'b/c': 'c' }, options)
    t.equal(one.image.digest, two.image.digest)
  })
}

t.test('a build', { skip: needsRoot }, async (t) => {
  const rig = await buildRig(t)
  await t.test('runs commands as root of a user namespace, and keeps their files', (t) => runs(t, rig))
  await t.test('copies files', (t) => copies(t, rig))
  await t.test('copies from other stages', (t) => stages(t, rig))
  await t.test('adds archives and URLs', (t) => adds(t, rig))
  await t.test('mounts what a step requests', (t) => mounts(t, rig))
  await t.test('writes the config given by the instructions', (t) => configs(t, rig))
  await t.test('repeats nothing', (t) => caches(t, rig))
})

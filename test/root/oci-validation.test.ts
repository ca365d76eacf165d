// The validation programs of OCI's runtime-tools, where they are built: every check that passes with runc on
// this host passes with wherry-oci. Some programs fail with every runtime, because this kernel or host lacks
// a feature, so only a worse result than runc's is a failure.

import { spawnSync } from 'node:child_process'
import { existsSync, globSync, mkdtempSync, readdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { needsBundle, WHERRY_OCI } from '../helpers/bundle.ts'

t.setTimeout(900_000)

/** A checkout of runtime-tools with its `runtimetest` and its `validation/NAME/NAME.t`. */
const TOOLS =
  process.env.OCI_RUNTIME_TOOLS ?? fileURLToPath(new URL('../../build/runtime-tools', import.meta.url))
/**
 * It kills a container that runs `true`, which is an error once that has exited. wherry-oci's `start` returns
 * only when the program runs, so that is likely.
 */
const RACE = 'pidfile'
const PROGRAM_MAX_MS = 120_000
const skip =
  needsBundle ||
  (!existsSync(join(TOOLS, 'runtimetest')) &&
    `needs the validation programs of OCI’s runtime-tools, built, in ${TOOLS} (or OCI_RUNTIME_TOOLS)`)

interface Score {
  readonly code: number | null
  readonly ok: number
  readonly failed: readonly string[]
  readonly stderr: string
}

function score(program: string, runtime: string): Score {
  const { status, stdout, stderr } = spawnSync(program, {
    cwd: TOOLS,
    encoding: 'utf8',
    env: { PATH: process.env.PATH, RUNTIME: runtime },
    timeout: PROGRAM_MAX_MS,
  })
  return {
    code: status,
    ok: stdout.match(/^ok /gm)?.length ?? 0,
    failed: stdout.match(/^not ok .*$/gm) ?? [],
    stderr,
  }
}

/** A command that runs wherry-oci with a separate state folder. */
function runtimeFor(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'wherry-validation-'))
  const command = join(directory, 'runtime')
  writeFileSync(command, `#!/bin/sh\nexec ${WHERRY_OCI} --root ${join(directory, 'state')} "$@"\n`, {
    mode: 0o755,
  })
  t.teardown(() => {
    const state = join(directory, 'state')
    for (const id of existsSync(state) ? readdirSync(state) : [])
      spawnSync(command, ['delete', '--force', id])
    rmSync(directory, { recursive: true })
  })
  return command
}

t.test('checks that pass with runc pass with wherry-oci', { skip }, async (t) => {
  const runtime = runtimeFor(t)
  const left = (): string[] => globSync('/sys/fs/cgroup/*/testdir/')
  for (const program of globSync(join(TOOLS, 'validation/*/*.t')).sort()) {
    const ours = score(program, runtime)
    const name = basename(dirname(program))
    if (ours.code === 0 && ours.failed.length === 0) {
      t.pass(`${name}: ${ours.ok} ok`)
      continue
    }
    if (name === RACE) {
      t.comment(`${name}: left out, a race`)
      continue
    }
    const theirs = score(program, 'runc')
    const asGood =
      ours.ok >= theirs.ok &&
      (ours.failed.length <= theirs.failed.length || ours.ok > theirs.ok) &&
      (ours.code === 0 || theirs.code !== 0)
    t.ok(
      asGood,
      `${name}: ${ours.ok} ok, ${ours.failed.length} not, exit ${ours.code}; runc: ${theirs.ok} ok, ${theirs.failed.length} not, exit ${theirs.code}`,
      { failed: ours.failed, stderr: ours.stderr.slice(-1000) },
    )
  }
  // The programs leave the parents of their containers' cgroups behind.
  for (const path of left()
    .flatMap((top) => [...globSync(join(top, '**/')), top])
    .sort((a, b) => b.length - a.length))
    if (existsSync(path)) rmdirSync(path)
  t.same(left(), [])
})

// Runs the tutorial of the README: every line of its sh blocks, and the js block under the file name before
// it. A comment after a command is its expected output. The environment replaces three things: ports, the
// data folder, and Docker Hub (by a registry on this machine).

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { makeBusyboxLayer } from '../../infra/demo/image.ts'
import { findProgram } from '../../services/cli/up/parts.ts'
import { readState } from '../../services/cli/up/state.ts'
import { pushImage } from '../../infra/demo/push-image.ts'
import { parseReference } from '../../services/registry/reference.ts'
import { createRegistryClient } from '../../services/registry/registry.ts'
import { startRegistry } from '../helpers/registry.ts'
import { cannotRun, COMMAND, shortFolder } from '../helpers/wherry.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const README = readFileSync(join(ROOT, 'README.md'), 'utf8')
const COMMAND_TIMEOUT_MS = 200_000

const missing = ['skopeo', 'curl', 'make', 'bash'].find(
  (program) => findProgram(program, process.env) === undefined,
)
const skip = cannotRun || (missing === undefined ? false : `needs ${missing} (make setup)`)

interface Step {
  readonly command: string
  /** Expected output, from the comment after the command. */ readonly prints?: string
}
interface Piece {
  readonly steps: readonly Step[]
  readonly file?: { readonly name: string; readonly text: string }
}

function parseSteps(text: string): Step[] {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const [command = '', prints] = line.split(/ +# /)
      return { command, ...(prints !== undefined && { prints: prints.trim() }) }
    })
}

/** The code blocks of the section "Tutorial" in order; the line before a js block has its file name. */
function parseTutorial(readme: string): Piece[] {
  const section = /^## Tutorial\n([\s\S]*?)^## /m.exec(readme)?.[1] ?? ''
  return [...section.matchAll(/(?:In `([\w.]+)`:\n\n)?```(\w+)\n([\s\S]*?)```/g)].map(
    ([, name, language, text]) => {
      if (language === 'sh') return { steps: parseSteps(text!) }
      if (language === 'js' && name !== undefined) return { steps: [], file: { name, text: text! } }
      throw new Error(`README: cannot run a ${language} block`)
    },
  )
}

/**
 * Create a home folder in FOLDER whose skopeo uses REGISTRY as Docker Hub (containers-registries.conf(5)).
 */
function homeWithoutDockerHub(folder: string, registry: string): string {
  const home = join(folder, 'home')
  mkdirSync(join(home, '.config/containers'), { recursive: true })
  writeFileSync(
    join(home, '.config/containers/registries.conf'),
    `[[registry]]\nprefix = "docker.io"\nlocation = "${registry}"\ninsecure = true\n`,
  )
  return home
}

async function run(
  command: string,
  cwd: string,
  env: NodeJS.ProcessEnv,
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn('bash', ['-c', command], {
    cwd,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: COMMAND_TIMEOUT_MS,
  })
  const texts = [child.stdout, child.stderr].map(async (stream) =>
    Buffer.concat((await stream.toArray()) as Buffer[]).toString('utf8'),
  )
  const [code] = (await once(child, 'close')) as [number | null]
  const [stdout = '', stderr = ''] = await Promise.all(texts)
  return { code, stdout, stderr }
}

/**
 * Run `wherry down` on DATA after the test, even if its process is killed: the guard waits for the end of
 * stdin.
 */
function stopAfterwards(t: Test, data: string): void {
  const guard = spawn('bash', ['-c', 'read -r; exec "$0" down --data "$1"', COMMAND, data], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  const ended = once(guard, 'exit')
  t.teardown(async () => {
    guard.stdin.end()
    await ended
  })
}

t.test('the tutorial has five lines and a queue', async (t) => {
  const [first, program, last] = parseTutorial(README)
  t.equal(first?.steps.length, 5)
  t.match(program?.file, { name: 'queue.mjs', text: /from 'bullmq'/ })
  t.match(last?.steps.at(-1), { command: 'wherry down' })
})

t.test('the tutorial works', { skip }, async (t) => {
  const hub = await startRegistry(t)
  const client = createRegistryClient()
  await pushImage({
    registry: client,
    reference: parseReference(`${hub}/library/busybox:latest`),
    layers: [{ bytes: makeBusyboxLayer(), mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip' }],
    config: { config: { Env: ['PATH=/bin'], Cmd: ['sh'] } },
  })
  await client.close()

  const data = shortFolder(t)
  // A folder inside the checkout, because queue.mjs searches for packages in parent folders.
  mkdirSync(join(ROOT, 'build'), { recursive: true })
  const cwd = mkdtempSync(join(ROOT, 'build', 'readme-'))
  t.teardown(() => {
    rmSync(cwd, { recursive: true, force: true })
  })
  execFileSync('make', ['-s', 'install', `PREFIX=${cwd}/usr`], { cwd: ROOT })
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(?:WHERRY_|NODE_OPTIONS$|TAP|npm_)/.test(name),
  )
  const env = {
    ...Object.fromEntries(kept),
    PATH: `${cwd}/usr/bin:${process.env.PATH}`,
    WHERRY_DATA: data,
    WHERRY_GATEWAY_LISTEN: '127.0.0.1:0',
    WHERRY_WORKER_LISTEN: '127.0.0.1:0',
    HOME: homeWithoutDockerHub(cwd, hub),
  }
  stopAfterwards(t, data)

  /** Replace the default addresses in TEXT by those of this test. */
  const here = (written: string): string => {
    const text = written.replace('node_modules/.bin/node', `${ROOT}node_modules/.bin/node`)
    const state = readState(data)
    if (state === undefined) return text.replace('wherry up', 'wherry up --registry 127.0.0.1:0')
    return text
      .replaceAll('127.0.0.1:5000', state.registry)
      .replaceAll('127.0.0.1:8080', new URL(state.gateway).host)
      .replaceAll('/var/lib/wherry', data)
  }
  for (const { steps, file } of parseTutorial(README)) {
    if (file) writeFileSync(join(cwd, file.name), here(file.text))
    for (const { command, prints } of steps) {
      const { code, stdout, stderr } = await run(here(command), cwd, env)
      if (code !== 0) return t.fail(`${command}\nexits with ${code}: ${stderr}`)
      if (prints === undefined) t.pass(command)
      else t.equal(stdout.trim(), prints, command)
    }
  }
  t.equal(readState(data), undefined, 'the last line stopped Wherry')
})

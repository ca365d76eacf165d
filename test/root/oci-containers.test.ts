// The containers room inside one process, as a daemon uses it: a whole life, exec, failures, and no
// descriptor left open.

import { closeSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createContainers, type Containers } from '../../services/containers/containers.ts'
import type { ContainerProcess } from '../../services/containers/context.ts'
import { parseConfig } from '../../services/oci/config/config.ts'
import { specTemplate } from '../../services/oci/config/template.ts'
import { openNative } from '../../services/runtime/native.ts'
import { containerName, makeRootfs, needsBundle, type Config } from '../helpers/bundle.ts'
import { NATIVE_DIR } from '../helpers/container.ts'

const openFds = (): number => readdirSync('/proc/self/fd').length

interface Rig {
  readonly containers: Containers
  readonly id: string
  /** Create the container with SCRIPT as its program. */
  create(script: string, change?: (config: Config) => void): Promise<ContainerProcess>
}

function rigFor(t: Test): Rig {
  const directory = mkdtempSync(join(tmpdir(), 'wherry-containers-'))
  makeRootfs(join(directory, 'rootfs'))
  const native = openNative(NATIVE_DIR)
  const id = containerName(t)
  const containers = createContainers({
    root: join(directory, 'state'),
    nativeDir: NATIVE_DIR,
    native: () => native,
    readConfig: (text, bundle) => parseConfig(text, bundle).spec,
    systemdCgroup: false,
    environment: {},
    warn: (message) => t.comment(message),
  })
  t.teardown(async () => {
    await containers.remove(id, true)
    rmSync(directory, { recursive: true, force: true })
  })
  return {
    containers,
    id,
    create(script, change = () => {}) {
      const document: Config = structuredClone(specTemplate())
      document.process.terminal = false
      document.process.args = ['sh', '-c', script]
      change(document)
      const config = JSON.stringify(document)
      return containers.create({
        id,
        bundle: directory,
        config,
        spec: parseConfig(config, directory).spec,
        console: document.process.terminal ? 'keep' : undefined,
        pidFile: undefined,
        preserveFds: 0,
        newKeyring: false,
      })
    },
  }
}

t.test('a container in one process', { skip: needsBundle }, async (t) => {
  t.test('lives through create, start, exec, pause, kill and remove', async (t) => {
    const { containers, id, create } = rigFor(t)
    const first = await create('sleep 100')
    t.match(containers.state(id), { status: 'created', pid: first.pid })
    await containers.start(id)
    t.equal(containers.state(id).status, 'running')
    const process = {
      ...containers.config(id).process,
      args: ['sh', '-c', 'exit 7'],
    }
    const second = await containers.exec(id, {
      process,
      console: undefined,
      pidFile: undefined,
      preserveFds: 0,
    })
    t.equal(await containers.wait(second), 7)
    closeSync(second.pidfd)
    await containers.pause(id)
    t.equal(containers.state(id).status, 'paused')
    await t.rejects(containers.pause(id), { name: 'WrongStatus', message: /it is paused, not running/ })
    await containers.resume(id)
    await containers.kill(id, constants.signals.SIGKILL, false)
    t.equal(await containers.wait(first), 128 + constants.signals.SIGKILL)
    closeSync(first.pidfd)
    t.equal(containers.state(id).status, 'stopped')
    await containers.remove(id, false)
    t.throws(() => containers.state(id), { name: 'ContainerError', message: /does not exist/ })
  })
  t.test('leaves no descriptor open, whether it runs or fails', async (t) => {
    const { containers, id, create } = rigFor(t)
    const run = async (): Promise<void> => {
      const process = await create('exit 3', (config) => {
        config.process.terminal = true
      })
      t.ok(process.terminal !== undefined, 'the terminal is kept')
      await containers.start(id)
      t.equal(await containers.wait(process), 3)
      closeSync(process.pidfd)
      closeSync(process.terminal!)
      await containers.remove(id, true)
    }
    const failures: ReadonlyArray<(config: Config) => void> = [
      (config) => {
        config.hooks = { createRuntime: [{ path: '/bin/false' }] }
      },
      (config) => {
        config.process.args = ['/nothing']
        config.process.terminal = true
      },
      (config) => {
        config.linux.namespaces[0].path = '/nothing'
      },
    ]
    const fail = async (): Promise<void> => {
      for (const change of failures) await t.rejects(create('true', change))
      t.throws(() => containers.state(id), /does not exist/)
    }
    await run() // loads what Node opens once
    await fail()
    const before = openFds()
    for (let i = 0; i < 3; i++) {
      await run()
      await fail()
    }
    t.equal(openFds(), before)
  })
  t.test('leaves the event loop free while a hook runs', async (t) => {
    const { containers, id, create } = rigFor(t)
    let ticks = 0
    const timer = setInterval(() => ticks++, 10)
    const process = await create('true', (config) => {
      config.hooks = { prestart: [{ path: '/bin/sleep', args: ['sleep', '0.5'] }] }
    })
    clearInterval(timer)
    t.ok(ticks > 5, `${ticks} ticks`)
    closeSync(process.pidfd)
    await containers.remove(id, true)
  })
})

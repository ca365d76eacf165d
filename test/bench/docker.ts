// `docker run --rm --network none` for comparison, on a private dockerd with images, state and socket in one
// folder, without a bridge and without packet filter rules.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

const START_LOOKS_MAX = 300
const START_PAUSE_MS = 100
const IMAGE = 'bench'

export interface DockerEngine {
  run(flags: readonly string[], command: string): Promise<void>
  close(): Promise<void>
}

/** The first missing program, or undefined. */
export function missingDocker(): string | undefined {
  return ['dockerd', 'containerd', 'docker'].find(
    (name) => !(process.env['PATH'] ?? '').split(':').some((directory) => existsSync(join(directory, name))),
  )
}

/** Start an engine in FOLDER with ROOTFS as its only image. */
export async function startDocker(folder: string, rootfs: string): Promise<DockerEngine> {
  const own = join(folder, 'docker')
  mkdirSync(own)
  const socket = join(own, 'sock')
  const log = join(own, 'log')
  const flags = [
    '--data-root',
    join(own, 'data'),
    '--exec-root',
    join(own, 'exec'),
    '--pidfile',
    join(own, 'pid'),
    '-H',
    `unix://${socket}`,
    '--bridge',
    'none',
    '--iptables=false',
    '--ip6tables=false',
  ]
  const daemon = spawn(
    'setpriv',
    ['--pdeathsig', 'SIGTERM', '--', 'sh', '-c', `exec dockerd "$@" >${log} 2>&1`, 'sh', ...flags],
    { stdio: 'ignore' },
  )
  const exited = once(daemon, 'exit')
  const docker = (...words: string[]): string[] => ['-H', `unix://${socket}`, ...words]
  const close = async (): Promise<void> => {
    daemon.kill('SIGTERM')
    await exited
    // dockerd keeps the host's network namespace mounted for `--network host`.
    const netns = join(own, 'exec/netns/default')
    if (readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${netns} `)) execFileSync('umount', [netns])
  }
  for (let look = 0; !existsSync(socket); look++) {
    if (look === START_LOOKS_MAX || daemon.exitCode !== null) {
      await close()
      throw new Error(`dockerd did not start: ${readFileSync(log, 'utf8').slice(-500)}`)
    }
    await delay(START_PAUSE_MS)
  }
  execFileSync('sh', ['-c', `tar -C ${rootfs} -c . | docker ${docker('import', '-', IMAGE).join(' ')}`], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  return {
    async run(flags, command) {
      const child = spawn('docker', docker('run', '--rm', '--network', 'none', ...flags, IMAGE, command), {
        stdio: ['ignore', 'ignore', 'inherit'],
      })
      const [code] = (await once(child, 'exit')) as [number]
      if (code !== 0) throw new Error(`docker run exited with ${code}`)
    },
    close,
  }
}

// The container runtime: a spec and a slot in, a running container out, and an exit at the end. The states
// are those of the OCI runtime spec: `creating` during start(), then `running`, then `stopped` when `exited`
// resolves. This file owns everything that a container takes (slot, cgroup, descriptors), and releases it
// exactly once, also if the start fails halfway.

import { closeSync } from 'node:fs'
import { constants } from 'node:os'
import type { Usage } from '../contract/call-record.ts'
import { RuntimeFull, StartError, SyscallError } from '../contract/errors.ts'
import type { RuntimeSpec } from '../contract/runtime-spec.ts'
import type { Cgroup } from './cgroup/driver.ts'
import type { CgroupPool } from './cgroup/pool.ts'
import type { HostFacts } from './host-facts.ts'
import type { Native, StartedProcess } from './native.ts'
import { buildPlan } from './plan.ts'
import type { Slot, Slots } from './slots.ts'
import { explainFailure } from './start-failure.ts'

export interface ContainerExit {
  readonly exitCode: number | undefined
  /** For example "SIGKILL"; undefined if the program exited. */
  readonly signal: string | undefined
  readonly usage: Usage
  /** performance.now() at the moment the exit was seen. */
  readonly endedAt: number
}

export interface Container {
  readonly pid: number
  /** Our ends of its pipes.  The caller of start() owns and closes them. */
  readonly stdin: number
  readonly stdout: number
  readonly stderr: number
  readonly exited: Promise<ContainerExit>
  /** Send SIGKILL to all its processes, also if it is paused.  Does nothing after its end. */
  kill(): void
  /** Resolves when all its processes are frozen; they use no CPU time until resumed. */
  pause(): Promise<void>
  /** Does nothing if it is not paused. */
  resume(): void
}

export interface Runtime {
  /**
   * Throws StartError when the image or function is the reason, RuntimeFull when no slot is free,
   * SyscallError otherwise.
   */
  start(spec: RuntimeSpec): Container
  readonly running: number
  close(): Promise<void>
}

export interface RuntimeDeps {
  readonly native: Native
  readonly slots: Slots
  readonly cgroups: CgroupPool
  /** Facts that are the same for every container. */
  readonly host: Pick<HostFacts, 'stageDir' | 'seccomp' | 'rootByWorker' | 'procPaths'>
}

const SIGNAL_NAMES = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name]))

export function createRuntime({ native, slots, cgroups, host }: RuntimeDeps): Runtime {
  const exits = new Set<Promise<ContainerExit>>()

  function giveBack(slot: Slot, cgroup: Cgroup | undefined): void {
    slots.release(slot)
    if (cgroup) cgroups.giveBack(cgroup)
  }

  /** The container's usage.  Releases its slot and cgroup, even if the usage cannot be read. */
  function usageOf(slot: Slot, cgroup: Cgroup, oom: boolean): Usage {
    try {
      const usage = cgroup.usage()
      return oom && usage.oomKills === 0 ? { ...usage, oomKills: 1 } : usage
    } finally {
      giveBack(slot, cgroup)
    }
  }

  /**
   * The exit behind PIDFD, if there is one. When wait fails there will be no exit, so everything is released.
   */
  function collect(pidfd: number, slot: Slot, cgroup: Cgroup): ReturnType<Native['wait']> {
    try {
      return native.wait(pidfd)
    } catch (err) {
      closeSync(pidfd)
      giveBack(slot, cgroup)
      throw err
    }
  }

  /** OOM: did the cgroup report one?  Our kill on that event may come before the kernel counts its kill. */
  function watchExit(pidfd: number, slot: Slot, cgroup: Cgroup, oom: () => boolean): Promise<ContainerExit> {
    const { promise, resolve, reject } = Promise.withResolvers<ContainerExit>()
    const stop = native.onReadable(pidfd, () => {
      try {
        const exit = collect(pidfd, slot, cgroup)
        if (!exit) return
        stop()
        const endedAt = performance.now()
        closeSync(pidfd)
        const usage = usageOf(slot, cgroup, oom())
        resolve({
          exitCode: exit.exitCode,
          signal: exit.signal === 0 ? undefined : (SIGNAL_NAMES.get(exit.signal) ?? `signal ${exit.signal}`),
          usage,
          endedAt,
        })
      } catch (err) {
        stop()
        reject(err)
      }
    })
    return promise
  }

  function launch(spec: RuntimeSpec, slot: Slot, cgroup: Cgroup) {
    const plan = buildPlan(spec, {
      ...host,
      idBase: slot.idBase,
      idmapFd: slot.idmapFd,
      devDir: slot.devDir,
      netnsFd: slot.netnsFd,
      cgroupFd: cgroup.fd,
      cgroupTasks: cgroup.tasks,
    })
    try {
      return native.start(plan, true)
    } catch (err) {
      const reason =
        err instanceof SyscallError ? explainFailure(spec, plan.ops[err.index], err.errno) : undefined
      if (reason === undefined) throw err
      throw new StartError(reason.message, reason.code, err)
    }
  }

  /** `creating`: releases everything if no program runs in the end. */
  function begin(spec: RuntimeSpec, slot: Slot, onOom: () => void) {
    let cgroup: Cgroup | undefined
    try {
      cgroup = cgroups.take(spec.linux.resources)
      cgroup.onOom(onOom)
      return { cgroup, started: launch(spec, slot, cgroup) }
    } catch (err) {
      giveBack(slot, cgroup)
      throw err
    }
  }

  /** The controls of a running container; they do nothing once it has ended. */
  function controls(
    { pidfd }: StartedProcess,
    cgroup: Cgroup,
    exited: Promise<unknown>,
  ): Pick<Container, 'kill' | 'pause' | 'resume'> {
    let alive = true
    void exited
      .finally(() => {
        alive = false
      })
      .catch(() => {}) // the owner of `exited` handles its error
    const resume = (): void => {
      if (alive) cgroup.thaw()
    }
    return {
      kill() {
        if (alive) native.kill(pidfd, constants.signals.SIGKILL)
        resume()
      },
      async pause() {
        try {
          if (alive) await cgroup.freeze()
        } catch (err) {
          if (alive) throw err // otherwise it ended while it was being frozen
        }
      },
      resume,
    }
  }

  return {
    start(spec) {
      const slot = slots.take()
      if (!slot) throw new RuntimeFull('all container slots of this worker are in use')
      let oom = false
      let kill = (): void => {}
      const { cgroup, started } = begin(spec, slot, () => {
        oom = true
        kill()
      })
      const exited = watchExit(started.pidfd, slot, cgroup, () => oom)
      exits.add(exited)
      void exited.finally(() => exits.delete(exited)).catch(() => {}) // as above
      const control = controls(started, cgroup, exited)
      kill = control.kill
      try {
        // Only now, because until exec it shared the worker's memory, and with it the score. A process that
        // it forked in the meantime keeps the worker's score, but dies with the container anyway.
        if (spec.process.oomScoreAdj !== undefined) native.oomScore(started.pid, spec.process.oomScoreAdj)
        cgroup.started()
      } catch (err) {
        kill() // it must not run without its limit; its exit releases the slot and the cgroup
        for (const pipe of [started.stdin, started.stdout, started.stderr]) closeSync(pipe)
        throw err
      }
      const { pid, stdin, stdout, stderr } = started
      return { pid, stdin, stdout, stderr, exited, ...control }
    },
    get running() {
      return exits.size
    },
    async close() {
      await Promise.allSettled(exits)
      slots.close()
      await cgroups.close()
    },
  }
}

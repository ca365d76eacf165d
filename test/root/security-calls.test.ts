// Which system calls a function may make, tried from inside, and its identity.  The names are those of
// native/test/probe-calls.c; docs/isolation.md documents the answers.

import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { RuntimeSpec } from '../../services/contract/runtime-spec.ts'
import { NATIVE_DIR, needsRoot, processesIn, rigFor } from '../helpers/container.ts'

const words = (text: string): string[] => text.trim().split(/\s+/)

/** By answer; a refusal by the filter and one for a missing capability are both EPERM. */
const ANSWERS: Readonly<Record<string, readonly string[]>> = {
  EPERM: words(`
    mount umount remount fsopen open_tree move_mount mount_setattr pivot_root chroot
    unshare_user unshare_mount unshare_network unshare_time clone_user clone_pid setns
    bpf keyctl add_key request_key ptrace ptrace_me process_vm_readv process_vm_writev pidfd_getfd kcmp
    userfaultfd io_uring_setup io_uring_enter io_uring_register aio open_by_handle_at name_to_handle_at fanotify_init perf_event_open
    quotactl quotactl_fd swapon swapoff kexec_load init_module finit_module delete_module reboot sethostname setdomainname
    clock_settime settimeofday adjtimex clock_adjtime syslog acct vhangup sync mknod_block mknod_memory mbind move_pages migrate_pages
    personality real_time raise_files setuid_other clear_parent_death
    af_alg af_vsock af_packet af_alg_wide af_vsock_wide af_inet_raw af_inet_sctp af_inet_dccp af_inet_l2tp af_inet6_udplite pair_tipc
    netlink_uevent netlink_generic attach_filter attach_filter_wide attach_bpf attach_reuseport attach_reuseport_bpf
    own_filter own_filter_wide own_filter_prctl own_filter_prctl_wide`),
  EACCES: ['nice'],
  // ENOSYS makes libraries fall back to clone, whose flags a filter can check.
  ENOSYS: ['clone3'],
  ok: words(
    'setuid_0 af_inet af_inet_tcp af_inet6_udp af_unix pair_unix netlink_route keepalive reuseport nodelay membarrier memfd ask_for_filters no_new_privileges process_name',
  ),
}
/** 32-bit and x32 calls have other tables with other numbers; all of them are refused. */
const FOREIGN = ['int80', 'x32']

t.test('system calls', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  t.test('each answers as documented: no call that reaches out of the container is allowed', async (t) => {
    const expected = Object.entries(ANSWERS).flatMap(([answer, names]) =>
      names.map((name) => `${name} ${answer}`),
    )
    const names = expected.map((line) => line.split(' ')[0]!)
    t.same((await rig.run(['try', ...names])).text.trim().split('\n'), expected)
  })
  t.test('every call of the probe has an expected answer', async (t) => {
    const source = readFileSync(new URL('../../native/test/probe-calls.c', import.meta.url), 'utf8')
    const known = [...source.matchAll(/^ {2}C \((\w+),/gm)].map((match) => match[1]!)
    t.same(known.toSorted(), [...Object.values(ANSWERS).flat(), ...FOREIGN].toSorted())
    t.ok(known.length >= 60)
  })
  t.test(
    'a call outside of the 64-bit table kills the process',
    { skip: process.arch === 'x64' ? false : 'only x86-64 has other tables' },
    async (t) => {
      t.equal((await rig.run(['try', ...FOREIGN])).text, 'int80 SIGSYS\nx32 SIGSYS\n')
    },
  )
  t.test('the same holds for a user that is not root inside', async (t) => {
    const asUser = (spec: RuntimeSpec): RuntimeSpec => ({
      ...spec,
      process: { ...spec.process, user: { uid: 1000, gid: 1000, additionalGids: [] } },
    })
    const refused = ANSWERS.EPERM!
    const { text } = await rig.run(['try', ...refused, 'setuid_0'], asUser)
    t.same(
      text.trim().split('\n'),
      [...refused, 'setuid_0'].map((name) => `${name} EPERM`),
    )
  })
})

t.test('the identity of a function', { skip: needsRoot }, async (t) => {
  const rig = await rigFor(t)
  const users = [0, 1000].map((uid) => (spec: RuntimeSpec): RuntimeSpec => ({
    ...spec,
    process: { ...spec.process, user: { uid, gid: uid, additionalGids: [] } },
  }))

  t.test('no capability is in any set, for root inside or any other user', async (t) => {
    for (const user of users) {
      t.match(
        (await rig.run(['signals'], user)).text,
        /CapInh:\t0+\nCapPrm:\t0+\nCapEff:\t0+\nCapBnd:\t0+\nCapAmb:\t0+\nNoNewPrivs:\t1\nSeccomp:\t2/,
      )
      t.equal((await rig.run(['caps'], user)).text, '0 0 0\n')
    }
  })
  t.test('setuid and setgid programs and file capabilities grant nothing', async (t) => {
    const layer = rig.layer()
    const probe = join(NATIVE_DIR, 'probe')
    for (const name of ['setuid', 'filecaps']) copyFileSync(probe, join(layer, name))
    chmodSync(join(layer, 'setuid'), 0o6755)
    chmodSync(join(layer, 'filecaps'), 0o755)
    execFileSync(probe, ['give-capabilities', join(layer, 'filecaps')])
    const change =
      (...args: string[]) =>
      (spec: RuntimeSpec): RuntimeSpec =>
        users[1]!({
          ...spec,
          process: { ...spec.process, args },
          root: { ...spec.root, layers: [...spec.root.layers, layer] },
        })
    t.match((await rig.run([], change('/setuid', 'ids'))).text, /^uid=1000 gid=1000 /)
    t.match((await rig.run([], change('/filecaps', 'signals'))).text, /CapPrm:\t0+\nCapEff:\t0+\n/)
  })
  t.test('outside no process of a container is root or a known user', async (t) => {
    const held = rig.hold(['stay', 'wait'])
    t.equal(await held.firstWords, 'ok\n')
    const pids = processesIn(held.pidNamespace)
    t.ok(pids.length > 5, `${pids.length} processes`)
    for (const pid of pids) {
      const [, uids = '', gids = ''] =
        /^Uid:(.*)\nGid:(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
      for (const id of words(`${uids} ${gids}`)) t.ok(Number(id) > 65_535, `process ${pid} is ${id}`)
    }
    await held.kill()
  })
})

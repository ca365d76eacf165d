// Our Lua scripts. Each decides who owns a job and writes what follows from that in one step. Everything else
// that happens to a job is BullMQ's own script.
//
// Ownership is BullMQ's lock: `<job>:lock` holds the token of the attempt. A lock that expired while Redis or
// this worker was away is retaken as long as the job is still in "active": no other worker has begun it then,
// and using the result of an attempt that ran is better than running it again.

const OWN = `
local function own (lock, active, jobId, token, lifeMs)
  local owner = redis.call('GET', lock)
  if owner then return owner == token end
  if not redis.call('LPOS', active, jobId) then return false end
  redis.call('SET', lock, token, 'PX', lifeMs)
  return true
end
`

/**
 * claim: reserve a call id for a job that is about to be added.
 * KEYS record, wait, job   ARGV record text, record ms, most waiting
 * Returns "claimed", "taken" when such a call or job exists, "full" when too many calls wait.
 */
export const CLAIM = {
  keysCount: 3,
  lua: `
if redis.call('EXISTS', KEYS[1], KEYS[3]) > 0 then return 'taken' end
if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[3]) then return 'full' end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 'claimed'
`,
} as const

/**
 * settle: write the end of an attempt, if the attempt still owns its job.
 * KEYS lock, active, record, result, counts, logs, wait, prioritized, marker, body
 * ARGV jobId, token, lock ms, record text, record ms, result bytes, reply channel, counted function,
 *      log text, callId, log length, body ms, reply text
 * An empty string skips its part. Also raises the marker when calls wait: BullMQ's move to "finished" does
 * not do so for a queue that was at its global concurrency.
 * Returns 1, or 0 when another attempt owns the job or the job is gone.
 */
export const SETTLE = {
  keysCount: 10,
  lua: `${OWN}
if not own(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[5])
if ARGV[6] ~= '' then redis.call('SET', KEYS[4], ARGV[6], 'PX', ARGV[5]) end
if ARGV[8] ~= '' then redis.call('HINCRBY', KEYS[5], ARGV[8], 1) end
if ARGV[9] ~= '' then redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[11], '*', 'callId', ARGV[10], 'text', ARGV[9]) end
if ARGV[12] ~= '' then redis.call('PEXPIRE', KEYS[10], ARGV[12]) end
if ARGV[7] ~= '' then redis.call('PUBLISH', ARGV[7], ARGV[13]) end
if redis.call('LLEN', KEYS[7]) > 0 or redis.call('ZCARD', KEYS[8]) > 0 then redis.call('ZADD', KEYS[9], 0, '0') end
return 1
`,
} as const

/**
 * renew: keep the locks of a function's running jobs alive.
 * KEYS active, stalled   ARGV prefix of job keys, lock ms, then jobId and token of each
 * Returns the ids that are no longer ours.
 */
export const RENEW = {
  keysCount: 2,
  lua: `${OWN}
local lost = {}
for i = 3, #ARGV, 2 do
  local lock = ARGV[1] .. ARGV[i] .. ':lock'
  if own(lock, KEYS[1], ARGV[i], ARGV[i + 1], ARGV[2]) then
    redis.call('PEXPIRE', lock, ARGV[2])
    redis.call('SREM', KEYS[2], ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
`,
} as const

// Quantities as people write them in a function spec: "64Mi", "0.5", "500m", "1m30s".
// Suffixes are Kubernetes' for memory and CPU and Go's for durations, because OpenFaaS's files use them.
// Each parser returns undefined for invalid input; the caller names the field.

const MEMORY_UNITS: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  K: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  Ki: 1024,
  Mi: 1024 ** 2,
  Gi: 1024 ** 3,
  Ti: 1024 ** 4,
}

const DURATION_UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** "64Mi", "128M", "1073741824" → bytes.  Docker's "64m" and "64MiB" are not Kubernetes' and are refused. */
export function parseBytes(text: string): number | undefined {
  const match = /^(\d{1,15}(?:\.\d{1,6})?)([a-zA-Z]{0,2})$/.exec(text)
  const unit = match ? MEMORY_UNITS[match[2]!] : undefined
  if (!match || unit === undefined) return undefined
  return Math.round(Number(match[1]) * unit)
}

/** "0.5", "2", "500m" → CPUs. */
export function parseCpus(text: string): number | undefined {
  const match = /^(\d{1,6}(?:\.\d{1,20})?)(m?)$/.exec(text)
  if (!match) return undefined
  return Number(match[1]) / (match[2] === 'm' ? 1000 : 1)
}

/** "16" → 16: decimal digits only. */
export const parseCount = (text: string): number | undefined =>
  /^\d{1,9}$/.test(text) ? Number(text) : undefined

/** "250ms", "2s", "1m30s", "1.5h" → milliseconds.  A bare number is seconds, as OpenFaaS has it. */
export function parseDurationMs(text: string): number | undefined {
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000
  if (!/^(?:\d{1,9}(?:\.\d{1,6})?(?:ms|s|m|h)){1,4}$/.test(text)) return undefined
  let totalMs = 0
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g))
    totalMs += Number(amount) * DURATION_UNITS_MS[unit!]!
  return Math.round(totalMs)
}

/** 67108864 → "64Mi" */
export function formatBytes(sizeBytes: number): string {
  for (const [suffix, unit] of [
    ['Gi', 1024 ** 3],
    ['Mi', 1024 ** 2],
    ['Ki', 1024],
  ] as const) {
    if (sizeBytes >= unit && sizeBytes % unit === 0) return `${sizeBytes / unit}${suffix}`
  }
  return String(sizeBytes)
}

/** 0.5 → "0.5", exact: parseCpus returns the same number. */
export const formatCpus = (cpus: number): string => String(cpus)

/** 90000 → "1m30s". */
export function formatDuration(durationMs: number): string {
  if (durationMs < 1000 || durationMs % 1000 !== 0) return `${durationMs}ms`
  const hours = Math.floor(durationMs / 3_600_000)
  const minutes = Math.floor(durationMs / 60_000) % 60
  const seconds = Math.floor(durationMs / 1000) % 60
  return (
    [hours && `${hours}h`, minutes && `${minutes}m`, seconds && `${seconds}s`].filter(Boolean).join('') ||
    '0s'
  )
}

// Small pieces of text for people: ages, durations, sizes, digests, and untrusted text without control
// characters.

import type { Context } from './context.ts'

/**
 * TEXT without control characters, so that output of functions and registries cannot control the terminal.
 */
export function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, (c) => (c === '\r' ? '' : '�'))
}

/** Columns of the terminal on stdout; no limit for a file or a pipe. */
export function terminalWidth({ stdout }: Context): number {
  return stdout.isTTY === true && stdout.columns !== undefined ? stdout.columns : Infinity
}

/** 93784000 → "1d2h", 61000 → "1m1s", 420 → "420ms". */
export function formatAge(ageMs: number): string {
  if (ageMs < 1000) return `${Math.max(0, Math.round(ageMs))}ms`
  const seconds = Math.floor(ageMs / 1000)
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [seconds % 60, 's'],
  ]
  const first = parts.findIndex(([n]) => n > 0)
  return parts
    .slice(first, first + 2)
    .filter(([n]) => n > 0)
    .map(([n, unit]) => `${n}${unit}`)
    .join('')
}

/** 0.4213 → "0.42 ms". */
export function formatMs(ms: number): string {
  return `${ms.toFixed(ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`
}

/** 13002342 → "12.4 MiB". */
export function formatSize(sizeBytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = sizeBytes
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`
}

/** "sha256:0123…" → its first 12 digits. */
export function shortDigest(digest: string): string {
  return digest.replace('sha256:', '').slice(0, 12)
}

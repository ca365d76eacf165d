// Which images may be deployed into which namespace: the file behind WHERRY_SIGNATURES, parsed from JSON.
//   { "default": { "mode": "warn", "keys": ["cosign.pub"] },
//     "namespaces": { "prod": { "mode": "require", "keys": [ … ] } } } `require` refuses images that none of
//     the keys signed, `warn` deploys them with a warning, `off` checks nothing.

import { z } from 'zod'
import { InvalidRequest } from './errors.ts'
import { faultOf, INPUT } from './input.ts'

export interface SignatureRule {
  readonly mode: 'require' | 'warn' | 'off'
  /** PEM files, relative to the policy's folder. */
  readonly keys: readonly string[]
}

export interface SignaturePolicy {
  readonly default: SignatureRule
  readonly namespaces: Readonly<Record<string, SignatureRule>>
}

const KEYS_MAX = 32
const NAMESPACES_MAX = 1024

const rule = z
  .strictObject({
    mode: z.enum(['require', 'warn', 'off'], 'must be "require", "warn" or "off"'),
    keys: z.array(z.string().min(1).max(4096)).max(KEYS_MAX, `has more than ${KEYS_MAX} items`).default([]),
  })
  .refine(({ mode, keys }) => mode === 'off' || keys.length > 0, {
    message: 'must have at least one key',
    path: ['keys'],
  })

const policy = z.strictObject({
  default: rule.default({ mode: 'off', keys: [] }),
  namespaces: z
    .record(z.string().min(1), rule)
    .refine((all) => Object.keys(all).length <= NAMESPACES_MAX, `has more than ${NAMESPACES_MAX} namespaces`)
    .default({}),
})

/** PARSED as a policy.  Throws InvalidRequest with every wrong field. */
export function parseSignaturePolicy(parsed: unknown): SignaturePolicy {
  const result = policy.safeParse(parsed, INPUT)
  if (!result.success) throw new InvalidRequest(result.error.issues.flatMap(faultOf))
  return result.data
}

/** The rule for functions of NAMESPACE. */
export function ruleFor(
  { namespaces, default: fallback }: SignaturePolicy,
  namespace: string,
): SignatureRule {
  return Object.hasOwn(namespaces, namespace) ? namespaces[namespace]! : fallback
}

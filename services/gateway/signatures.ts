// Whose images may be deployed: the policy file and its keys, read once at start, and one check per
// deployment. registry/signature.ts knows signatures themselves.

import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { AppError, InvalidRequest, NotSigned } from '../contract/errors.ts'
import { parseSignaturePolicy, ruleFor, type SignaturePolicy } from '../contract/signature-policy.ts'
import { formatReference, type Reference } from '../registry/reference.ts'
import { parsePublicKey, type PublicKey } from '../registry/signature.ts'
import type { Log } from '../platform/log.ts'

export interface SignatureCheckDeps {
  /** Path of the policy; "" means no policy: every image may be deployed. */
  readonly file: string
  readonly isSigned: (reference: Reference, digest: string, keys: readonly PublicKey[]) => Promise<boolean>
  readonly log: Log
}

const SETTING = 'WHERRY_SIGNATURES'
const FILE_BYTES_MAX = 1024 ** 2

function readFile(path: string): string {
  try {
    const text = readFileSync(path, 'utf8')
    if (text.length > FILE_BYTES_MAX) throw new Error(`larger than ${FILE_BYTES_MAX} bytes`)
    return text
  } catch (err) {
    throw new InvalidRequest([{ path: SETTING, problem: `cannot read ${path} (${(err as Error).message})` }])
  }
}

function readPolicy(file: string): SignaturePolicy {
  const text = readFile(file)
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (err) {
    throw new InvalidRequest([{ path: SETTING, problem: `${file} is not JSON (${(err as Error).message})` }])
  }
  try {
    return parseSignaturePolicy(parsed)
  } catch (err) {
    if (!(err instanceof InvalidRequest)) throw err
    throw new InvalidRequest(
      err.faults.map((fault) => ({ path: SETTING, problem: `${file}: ${fault.path}: ${fault.problem}` })),
    )
  }
}

/** Every key in POLICY by its name there.  Throws InvalidRequest. */
function readKeys(policy: SignaturePolicy, file: string): ReadonlyMap<string, PublicKey> {
  const names = [policy.default, ...Object.values(policy.namespaces)].flatMap((rule) => rule.keys)
  return new Map(
    [...new Set(names)].map((name) => {
      const path = resolve(dirname(file), name)
      return [name, parsePublicKey(readFile(path), `${SETTING}: ${path}`)]
    }),
  )
}

/**
 * The check for deployments. Throws InvalidRequest if the policy or a key is invalid; the gateway then does
 * not start.
 */
export function createSignatureCheck({ file, isSigned, log }: SignatureCheckDeps) {
  const policy: SignaturePolicy =
    file === '' ? { default: { mode: 'off', keys: [] }, namespaces: {} } : readPolicy(file)
  const keys = readKeys(policy, file)

  /** A warning about the image of a function in NAMESPACE, if any.  Throws NotSigned, RegistryError. */
  return async (namespace: string, reference: Reference, digest: string): Promise<string | undefined> => {
    const rule = ruleFor(policy, namespace)
    if (rule.mode === 'off') return undefined
    let isGood: boolean
    try {
      isGood = await isSigned(
        reference,
        digest,
        rule.keys.map((name) => keys.get(name)!),
      )
    } catch (err) {
      if (rule.mode === 'require' || !(err instanceof AppError)) throw err
      log.warn(
        { err, namespace, image: formatReference(reference), digest },
        'deployed an image whose signatures could not be checked',
      )
      return `could not check whether ${formatReference(reference)} (${digest}) is signed: ${err.message}`
    }
    if (isGood) return undefined
    const problem = `${formatReference(reference)} (${digest}) is not signed by any key in the policy of ${namespace === '' ? 'functions without a namespace' : `namespace "${namespace}"`}`
    if (rule.mode === 'require')
      throw new NotSigned(
        `${problem}; sign it with: cosign sign --key KEY ${reference.registry}/${reference.repository}@${digest}`,
      )
    log.warn(
      { namespace, image: formatReference(reference), digest },
      'deployed an image that is not signed as its policy requires',
    )
    return problem
  }
}

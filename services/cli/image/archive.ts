// wherry image save and load.

import { createReadStream, statSync } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import type { Writable } from 'node:stream'
import { AppError } from '../../contract/errors.ts'
import { loadArchive, saveArchive } from '../../images/archive.ts'
import { openRegistryClient } from '../../registry/open-registry.ts'
import { NATIVE_DEFAULT } from '../commands/version.ts'
import type { Context } from '../context.ts'
import { interruptible } from '../interrupt.ts'
import { registryAccess } from '../registry-access.ts'
import { Failure, usageFailure } from '../failure.ts'
import { shortDigest } from '../terminal.ts'
import { findImage, withStore, type StoreOptions } from './open.ts'

export interface SaveFlags extends StoreOptions {
  readonly output: string
  readonly format: string
}
export interface LoadFlags extends StoreOptions {
  readonly input: string
}

/**
 * Runs WRITE on a draft next to FILE, which is renamed to FILE once it is complete and on disk. Devices and
 * pipes are written directly.
 */
async function writeFileWhole(
  what: string,
  file: string,
  write: (out: Writable) => Promise<void>,
): Promise<void> {
  const found = statSync(file, { throwIfNoEntry: false })
  if (found?.isDirectory()) throw new Failure(what, `${file} is a folder`, { remedy: 'name a file in it' })
  const isPlain = found === undefined || found.isFile()
  const path = isPlain ? join(dirname(file), `.${basename(file)}.${process.pid}.partial`) : file
  try {
    const handle = await open(path, isPlain ? 'wx' : 'w')
    await write(handle.createWriteStream({ flush: isPlain }))
    if (!isPlain) return
    await rename(path, file)
    const folder = await open(dirname(file), 'r')
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  } catch (err) {
    if (isPlain) await rm(path, { force: true })
    if (err instanceof Error && 'syscall' in err && !(err instanceof AppError))
      throw new Failure(what, `${file} cannot be written (${err.message})`, { cause: err })
    throw err
  }
}

export async function saveImages(
  texts: readonly string[],
  { output, format, ...options }: SaveFlags,
  context: Context,
): Promise<void> {
  const what = 'image save'
  if (format !== 'docker' && format !== 'oci')
    throw usageFailure(what, `--format "${format}" must be docker or oci`)
  const toStdout = output === '-'
  if (toStdout && context.stdout.isTTY === true)
    throw usageFailure(what, 'cannot write an archive to a terminal; name a file with -o')
  await withStore(what, options, context, async (store) => {
    const images = texts.map((text) => {
      const { image, name } = findImage(what, store, text)
      return { image, names: name === undefined ? [] : [name] }
    })
    const registry = openRegistryClient(registryAccess(options, context))
    try {
      await interruptible(what, context, (signal) => {
        const save = (out: Writable): Promise<void> =>
          saveArchive({ store, registry, images, format, out, signal })
        return toStdout ? save(context.stdout) : writeFileWhole(what, resolve(output), save)
      })
    } finally {
      await registry.close()
    }
    const saved = {
      output,
      format,
      images: images.map(({ image, names }) => ({ digest: image.digest, names })),
    }
    const report = toStdout ? context.stderr : context.stdout
    if (options.json) report.write(`${JSON.stringify(saved)}\n`)
    else for (const text of texts) report.write(`saved ${text}\n`)
  })
}

export async function loadImages({ input, ...options }: LoadFlags, context: Context): Promise<void> {
  const what = 'image load'
  const { stdin, stdout, env } = context
  if (input === '-' && stdin.isTTY === true)
    throw usageFailure(what, 'name an archive with -i, or pipe it to stdin')
  const path = resolve(input)
  const found = input === '-' ? undefined : statSync(path, { throwIfNoEntry: false })
  if (input !== '-' && found === undefined) throw new Failure(what, `${path} does not exist`)
  const source = input === '-' ? stdin : found!.isDirectory() ? path : createReadStream(path)
  await withStore(
    what,
    options,
    context,
    async (store) => {
      const loaded = await interruptible(what, context, (signal) =>
        loadArchive({ store, source, nativeDir: env.WHERRY_NATIVE || NATIVE_DEFAULT, signal }),
      )
      if (options.json) {
        stdout.write(`${JSON.stringify(loaded)}\n`)
        return
      }
      for (const { digest, names, moved } of loaded) {
        for (const name of names)
          stdout.write(
            `loaded ${name}, ${shortDigest(digest)}${moved[name] === undefined ? '' : `; previously ${shortDigest(moved[name])}`}\n`,
          )
        if (names.length === 0)
          stdout.write(
            `loaded ${digest}, which has no name; give it one with: wherry image tag ${shortDigest(digest)} NAME\n`,
          )
      }
    },
    { create: true },
  )
}

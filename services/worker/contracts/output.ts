// Bounded memory for what a function writes: the beginning of its response, the end of its log.

const HEAD_MIN_BYTES = 1024

/** Keeps the first MAXBYTES of a stream; ONOVERFLOW is called once when there is more. */
export function createHead(maxBytes: number, onOverflow: () => void) {
  let head = Buffer.alloc(0)
  let keptBytes = 0
  let overflowed = false
  return {
    keep(chunk: Buffer): void {
      const wanted = Math.min(keptBytes + chunk.length, maxBytes)
      if (wanted > head.length) {
        // Doubling, so that a program that writes byte by byte does not cost one object per byte.
        const larger = Buffer.allocUnsafeSlow(
          Math.min(maxBytes, Math.max(wanted, 2 * head.length, HEAD_MIN_BYTES)),
        )
        head.copy(larger, 0, 0, keptBytes)
        head = larger
      }
      chunk.copy(head, keptBytes, 0, wanted - keptBytes)
      const isMore = keptBytes + chunk.length > maxBytes
      keptBytes = wanted
      if (!isMore || overflowed) return
      overflowed = true
      onOverflow()
    },
    bytes: (): Buffer => head.subarray(0, keptBytes),
    overflowed: (): boolean => overflowed,
  }
}

/** Keeps the last MAXBYTES of a stream, in a ring that is allocated with the first byte. */
export function createTail(maxBytes: number) {
  let ring: Buffer | undefined
  let sizeBytes = 0
  return {
    keep(chunk: Buffer): void {
      ring ??= Buffer.allocUnsafe(maxBytes)
      const kept = chunk.subarray(Math.max(0, chunk.length - maxBytes))
      const at = (sizeBytes + chunk.length - kept.length) % maxBytes
      const fits = kept.copy(ring, at)
      kept.copy(ring, 0, fits)
      sizeBytes += chunk.length
    },
    text(): string {
      if (!ring) return ''
      const at = sizeBytes % maxBytes
      const bytes =
        sizeBytes <= maxBytes
          ? ring.subarray(0, sizeBytes)
          : Buffer.concat([ring.subarray(at), ring.subarray(0, at)])
      return bytes.toString('utf8')
    },
    truncated: (): boolean => sizeBytes > maxBytes,
  }
}

// The one check for "a JSON object" at the borders where unknown data is parsed.

/** Whether VALUE is an object with string keys: not null, not an array. */
export const isPlainObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

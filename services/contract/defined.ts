// Optional fields under exactOptionalPropertyTypes: a key is present only if it has a value.

/** FIELDS without the keys whose value is undefined, for `{ ...defined({ a, b }) }`. */
export function defined<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
  }
}

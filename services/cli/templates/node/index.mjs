// Runs one call: reads the body from stdin and writes the response to stdout and the log to stderr.
import handle from './handler.mjs'

const { env, stdin, stdout } = process
const body = Buffer.concat(await stdin.toArray())
const request = {
  method: env.Http_Method ?? 'POST',
  path: env.Http_Path ?? '/',
  query: env.Http_Query ?? '',
  callId: env.WHERRY_CALL_ID,
}
const response = await handle(body, request)
stdout.write(
  typeof response === 'string' || response instanceof Uint8Array
    ? response
    : JSON.stringify(response ?? null),
)

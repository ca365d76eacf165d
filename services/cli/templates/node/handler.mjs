/**
 * Handles one call of {{name}}. The returned string, bytes or JSON value is the response; a thrown error
 * fails the call.
 */
export default async function handle(body, request) {
  const name = body.toString('utf8').trim() || 'world'
  return { hello: name, method: request.method }
}

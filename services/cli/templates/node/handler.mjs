/**
 * What {{name}} does with one call. A string, bytes, or anything that JSON can say is the response; a throw
 * is a failed call.
 */
export default async function handle(body, request) {
  const name = body.toString('utf8').trim() || 'world'
  return { hello: name, method: request.method }
}

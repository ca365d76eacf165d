// Passes events to the handler: one event from stdin or, if AWS_LAMBDA_RUNTIME_API is set (on AWS and in its
// emulator), one after the other from the Lambda Runtime API. _HANDLER names the handler as "file.export"
// (default index.handler).
const { env, stdin, stdout } = process
const [file, name] = (env._HANDLER ?? 'index.handler').split('.')
const handler = (await import(`./${file}.mjs`))[name]

const contextOf = (awsRequestId, deadlineMs) => ({
  awsRequestId,
  functionName: env.AWS_LAMBDA_FUNCTION_NAME ?? env.WHERRY_FUNCTION,
  getRemainingTimeInMillis: () => Math.max(0, deadlineMs - Date.now()),
})

async function serveStdin() {
  const text = Buffer.concat(await stdin.toArray()).toString('utf8')
  const response = await handler(
    text.trim() === '' ? {} : JSON.parse(text),
    contextOf(env.WHERRY_CALL_ID, Infinity),
  )
  stdout.write(JSON.stringify(response ?? null))
}

async function serveRuntimeApi(api) {
  const base = `http://${api}/2018-06-01/runtime/invocation`
  for (;;) {
    const next = await fetch(`${base}/next`)
    const id = next.headers.get('lambda-runtime-aws-request-id')
    try {
      const context = contextOf(id, Number(next.headers.get('lambda-runtime-deadline-ms')))
      const response = await handler(await next.json(), context)
      await fetch(`${base}/${id}/response`, { method: 'POST', body: JSON.stringify(response ?? null) })
    } catch (err) {
      const report = {
        errorType: err.name,
        errorMessage: err.message,
        stackTrace: String(err.stack).split('\n').slice(1),
      }
      await fetch(`${base}/${id}/error`, {
        method: 'POST',
        body: JSON.stringify(report),
        headers: { 'lambda-runtime-function-error-type': err.name },
      })
    }
  }
}

if (env.AWS_LAMBDA_RUNTIME_API) await serveRuntimeApi(env.AWS_LAMBDA_RUNTIME_API)
else await serveStdin()

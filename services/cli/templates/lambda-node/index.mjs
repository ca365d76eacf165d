/** An AWS Lambda handler. EVENT is the parsed body; the returned value is the response, as JSON. */
export async function handler(event, context) {
  return { hello: event?.name ?? 'world', requestId: context.awsRequestId }
}

/** A handler as AWS Lambda has it: EVENT is the parsed body; what it returns is the response, as JSON. */
export async function handler(event, context) {
  return { hello: event?.name ?? 'world', requestId: context.awsRequestId }
}

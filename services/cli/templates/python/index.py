"""Runs one call: reads the body from stdin and writes the response to stdout and the log to stderr."""
import json
import os
import sys

from handler import handle

request = {
    "method": os.environ.get("Http_Method", "POST"),
    "path": os.environ.get("Http_Path", "/"),
    "query": os.environ.get("Http_Query", ""),
    "callId": os.environ.get("WHERRY_CALL_ID"),
}
response = handle(sys.stdin.buffer.read(), request)
if not isinstance(response, (str, bytes)):
    response = json.dumps(response)
sys.stdout.buffer.write(response.encode("utf-8") if isinstance(response, str) else response)

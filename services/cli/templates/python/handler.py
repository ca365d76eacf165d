def handle(body: bytes, request: dict) -> object:
    """Handle one call of {{name}}.  The returned str, bytes or JSON value is the response; an exception fails the call."""
    name = body.decode("utf-8").strip() or "world"
    return {"hello": name, "method": request["method"]}

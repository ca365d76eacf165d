def handle(body: bytes, request: dict) -> object:
    """What {{name}} does with one call.  A str, bytes, or anything that JSON can say is the response; an exception is a failed call."""
    name = body.decode("utf-8").strip() or "world"
    return {"hello": name, "method": request["method"]}

"""Python that spends its time in the interpreter and in the library's C code."""
import hashlib
import json
import re
import zlib

records = [{"id": n, "name": f"name {n * 7919 % 2003}", "tags": ["a", "b", n]} for n in range(2000)]


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


while True:
    text = json.dumps(records)
    zlib.decompress(zlib.compress(text.encode()))
    hashlib.sha256(text.encode()).hexdigest()
    sorted(json.loads(text), key=lambda record: record["name"])
    re.sub(r"name (\d+)", r"n\1", text)
    fibonacci(18)

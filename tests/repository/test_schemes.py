"""Only the room of the buckets knows what their addresses start with."""

import ast
from pathlib import Path

SOURCE = Path(__file__, "../../../src/kaggleops").resolve()


KNOWN = {f"{scheme}{end}" for scheme in ("gs", "s3", "s3+http") for end in ("", ":", "://")}


def test_no_code_outside_of_bucket_builds_or_compares_an_address() -> None:
    found = [
        f"{file.relative_to(SOURCE)}:{node.lineno}"
        for file in SOURCE.rglob("*.py")
        if file.parent.name != "bucket" or file.parent.parent != SOURCE
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.Constant) and node.value in KNOWN)
        or (
            isinstance(node, ast.JoinedStr)
            and isinstance(node.values[0], ast.Constant)
            and str(node.values[0].value).endswith(("gs://", "s3://"))
        )
    ]
    assert found == [], "ask kaggleops.bucket.location: is_remote, name_and_prefix, console_url"

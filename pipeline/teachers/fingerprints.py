"""Fingerprints: labels of one fingerprint belong together, so it covers all that an answer depends on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fingerprint_of(facts: Mapping[str, Any], *paths: Path) -> str:
    """128 bits, hex, of facts that JSON can hold (anything else counts by its `repr`) and of the files at and below `paths`."""
    digest = hashlib.blake2b(json.dumps(dict(facts), sort_keys=True, default=repr).encode(), digest_size=16)
    for path in paths:
        for file in [path] if path.is_file() else sorted(below for below in path.rglob("*") if below.is_file()):
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).digest()
            digest.update(file.relative_to(path.parent).as_posix().encode() + content)
    return digest.hexdigest()

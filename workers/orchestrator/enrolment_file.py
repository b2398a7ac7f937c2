"""The one file that a new device needs: where the orchestrator is, whom to trust, and a token that enrols one device."""

import json
from pathlib import Path

from pipeline.files import write_atomic

VERSION = 1


def write_enrolment(path: Path, *, endpoint_enrolment: str, endpoint_fleet: str, ca_pem: bytes, root: bytes, token: str) -> None:
    """The one file that a new device needs; whoever reads it can enrol one device. Mode 0600."""
    content = {
        "version": VERSION,
        "endpoint_enrolment": endpoint_enrolment,
        "endpoint_fleet": endpoint_fleet,
        "ca_pem": ca_pem.decode(),
        "root": root.decode(),
        "token": token,
    }
    write_atomic(path, json.dumps(content, indent=1).encode(), mode=0o600)

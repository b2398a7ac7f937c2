"""An operator's file: where the orchestrator is, and the certificate that says what its holder may do there.

`kdpipe operator new` writes it, verbs that speak to an orchestrator read it. Whoever reads the file is that operator, so its mode is 0600.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import FleetError
from pipeline.files import read_bounded, write_atomic
from workers.orchestrator.pki import Credentials

VERSION = 1
MAX_BYTES = 65_536


class OperatorFileError(FleetError):
    """A file that should make its reader an operator does not read."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path, self.found = path, found

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; expected an operator's file, version {VERSION}; `kdpipe operator new` writes one"


@dataclass(frozen=True, kw_only=True)
class OperatorFile:
    """`endpoint` is HOST:PORT of the operator port."""

    endpoint: str
    ca_pem: bytes
    credentials: Credentials


def write_operator_file(path: Path, content: OperatorFile) -> None:
    """Mode 0600."""
    tree = {
        "version": VERSION,
        "endpoint": content.endpoint,
        "ca_pem": content.ca_pem.decode(),
        "key_pem": content.credentials.key_pem.decode(),
        "certificate_pem": content.credentials.certificate_pem.decode(),
    }
    write_atomic(path, json.dumps(tree, indent=1).encode(), mode=0o600)


def read_operator_file(path: Path) -> OperatorFile:
    """Raises OperatorFileError, FileNotFoundError."""
    try:
        tree = json.loads(read_bounded(path, MAX_BYTES))
        if tree["version"] != VERSION:
            raise OperatorFileError(str(path), f"version {tree['version']!r:.20}")
        credentials = Credentials(key_pem=tree["key_pem"].encode(), certificate_pem=tree["certificate_pem"].encode())
        return OperatorFile(endpoint=str(tree["endpoint"]), ca_pem=tree["ca_pem"].encode(), credentials=credentials)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OperatorFileError(str(path), f"{type(error).__name__}: {error}"[:120]) from error

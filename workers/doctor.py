"""`kdpipe doctor`: what this machine has, against what a run needs.

`workers.machine` asks the machine and returns facts; `judge` compares them with needs and returns checks, as a pure function;
`checks` is both. Works on a device's light install: what only a run needs (Ray, npm, memory for trainers) is judged only where
the cluster extra is installed. Changes nothing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunFile
from workers.machine import Machine, look_around

GIB = 2**30
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report."""

    name: str
    ok: bool
    found: str
    expected: str
    next_command: str
    """What to type where `ok` is False."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the run asks for; the defaults are those of the spam recipe."""

    memory_bytes: int = 4 * GIB
    device_memory_bytes: int = GIB // 4
    shared_memory_bytes: int = GIB // 2
    disk_bytes: int = 2 * GIB
    cpus: float = 2.0
    ports: tuple[int, ...] = ()
    npm: bool = True


def checks(*, run: RunFile | None = None, folder: Path = Path(), look: Callable[..., Machine] = look_around) -> list[Check]:
    """Look at this machine and judge it, for `run` where one is given. `folder` is where runs are written."""
    needs = needs_of(run) if run else Needs()
    address = (run.ray.address if run else None) or os.environ.get("RAY_ADDRESS")
    return judge(look(folder=folder, ports=needs.ports, ray_address=address), needs)


def needs_of(run: RunFile) -> Needs:
    """What this run file asks of the machine that drives it."""
    fleet = run.fleet
    ports = (fleet.fleet_port, fleet.enrolment_port, fleet.operator_port, fleet.metrics_port, run.metrics.port)
    students = sum(student.cpus * student.workers_least for student in run.students.values())
    return Needs(
        cpus=run.teacher.cpus * run.teacher.workers_min + students,
        ports=tuple(port for port in ports if port),
        disk_bytes=GIB + run.labelling.free_disk_bytes,
        npm=run.prepare is not None and run.prepare.use == "spam",
    )


def judge(machine: Machine, needs: Needs) -> list[Check]:
    """Every check, in the order a person would act on them."""
    found = [
        _python(machine),
        *_packages(machine),
        _import_roots(machine),
        _memory(machine, needs),
        _disk(machine, needs),
        _ports(machine, needs),
    ]
    if machine.has_cluster:
        found += [_shared_memory(machine, needs), _ray(machine, needs)]
        if needs.npm:
            found.append(_npm(machine))
    return found


def _python(machine: Machine) -> Check:
    return Check(
        name="python",
        ok=machine.python[:2] >= OLDEST_PYTHON,
        found=".".join(map(str, machine.python)),
        expected=f"{OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer",
        next_command="make clean && make setup PYTHON=/path/to/python3.11",
    )


def _packages(machine: Machine) -> list[Check]:
    """One check an extra that somebody chose; the light set always."""
    chosen = {"device": "", "cluster": "[cluster]"} if machine.has_cluster else {"device": ""}
    found = []
    for extra, suffix in chosen.items():
        packages = machine.packages.get(extra, ())
        wrong = [
            f"{package.name} {package.found or 'missing'} (wanted {package.wanted or 'any'})" for package in packages if not package.fits
        ]
        told = ", ".join(wrong) or f"{len(packages)} packages"
        found.append(
            Check(
                name=f"packages {extra}",
                ok=bool(packages) and not wrong,
                found=told if packages else "kdpipe itself is not installed",
                expected="every package in its range",
                next_command=f"pip install 'kdpipe{suffix}'",
            )
        )
    return found


def _import_roots(machine: Machine) -> Check:
    """Another package called `pipeline` or `workers` would stand in front of ours."""
    roots = sorted(set(machine.import_roots.values()))
    return Check(
        name="import",
        ok=len(roots) == 1,
        found=", ".join(f"{name} from {root}" for name, root in sorted(machine.import_roots.items())),
        expected="pipeline and workers from one installation",
        next_command="python -m venv .venv && .venv/bin/pip install 'kdpipe[cluster]', an environment of its own",
    )


def _memory(machine: Machine, needs: Needs) -> Check:
    wanted = needs.memory_bytes if machine.has_cluster else needs.device_memory_bytes
    return _at_least("memory", machine.memory_bytes, wanted, "free", "stop what holds it (`ps aux --sort=-rss | head`)")


def _shared_memory(machine: Machine, needs: Needs) -> Check:
    return _at_least(
        "shared memory", machine.shared_memory_bytes, needs.shared_memory_bytes, "free in /dev/shm", "mount -o remount,size=2G /dev/shm"
    )


def _disk(machine: Machine, needs: Needs) -> Check:
    return _at_least(
        "disk", machine.disk_bytes, needs.disk_bytes, f"free at {machine.folder}", "kdpipe clean DIR, or --dir on another disk"
    )


def _at_least(name: str, found_bytes: int | None, wanted_bytes: int, where: str, next_command: str) -> Check:
    """A check of bytes; passes where the machine does not say, and says that."""
    found = "this machine does not say" if found_bytes is None else f"{found_bytes / GIB:.1f} GiB {where}"
    ok = found_bytes is None or found_bytes >= wanted_bytes
    return Check(name=name, ok=ok, found=found, expected=f"at least {wanted_bytes / GIB:.1f} GiB {where}", next_command=next_command)


def _ports(machine: Machine, needs: Needs) -> Check:
    taken = "; ".join(f"{port or 'any free one'}: {why}" for port, why in sorted(machine.taken_ports.items()))
    asked = ", ".join(map(str, sorted(needs.ports))) or "free ones of the system's choice"
    return Check(
        name="ports",
        ok=not machine.taken_ports,
        found=taken or f"{asked} can be had",
        expected="the run file's ports free on loopback",
        next_command="ss -ltnp shows who has them; `--set fleet.fleet_port=0` picks a free one",
    )


def _npm(machine: Machine) -> Check:
    return Check(
        name="npm",
        ok=machine.npm is not None,
        found=machine.npm or "none on PATH",
        expected="any npm: the spam recipe fetches its e-mails with it",
        next_command="apt-get install npm",
    )


def _ray(machine: Machine, needs: Needs) -> Check:
    ray = machine.ray
    expected = f"{needs.cpus:g} CPUs for a teacher and the students' trainers"
    if ray is None:
        return Check(name="ray", ok=False, found="not asked", expected=expected, next_command="pip install 'kdpipe[cluster]'")
    if ray.problem:
        return Check(
            name="ray", ok=False, found=f"{ray.address}: {ray.problem}", expected="a cluster that answers", next_command="ray status"
        )
    where = f"cluster {ray.address}" if ray.address else "started here by a run"
    slots = f", kd_trainer {ray.trainer_slots:g}" if ray.trainer_slots else ", no kd_trainer: trainers keep a fixed number of workers"
    return Check(
        name="ray",
        ok=ray.cpus >= needs.cpus,
        found=f"{where}: {ray.cpus:g} CPUs{slots}",
        expected=expected,
        next_command="lower students.NAME.cpus or teacher.cpus in the run file, or name a larger cluster (`ray.address`)",
    )

"""The fleet of a run: the orchestrator, the devices that this machine plays, and rollouts to them.

The orchestrator and each device are processes of their own, with their own folders; this driver is their operator and speaks to
the orchestrator only over gRPC with an operator's certificate. All of it can be done twice: a rollout has a name that follows from
the generation, a device that is enrolled keeps its identity, a release that is published stays so.
"""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.config import AskSection
from pipeline.errors import FleetError
from pipeline.files import make_private_folder
from pipeline.releases.keys import ONLINE
from pipeline.releases.online import BundleMissingError
from pipeline.releases.repository import root_bytes
from pipeline.releases.signer import ReleaseSigner
from pipeline.releases.yanked import Yank
from pipeline.rollout.rollout import RolloutState
from workers.driver.context import RunContext
from workers.driver.folder import RunFolder, read_json, write_json
from workers.driver.ports import NAMES
from workers.driver.records import Incumbent, StudentFiles, devices_gone, devices_of, incumbent_of, populations_of
from workers.driver.releasing import ensure_repository
from workers.driver.renewing import Renewal, signed_releases
from workers.driver.reporter import Gauge
from workers.driver.standing import standing_of
from workers.driver.unlocking import handed_to
from workers.edge.enrol import NotEnrolledError, load_identity
from workers.edge.folder import DeviceFolder
from workers.orchestrator.client import Operator, OrchestratorRefusedError, enrolment_files
from workers.orchestrator.pki import ensure_pki
from workers.orchestrator.views import FleetView, RolloutView

POLL_S = 0.2
PYTHON = (sys.executable, "-P")
"""-P: the working folder is the user's, and a `workers/` in it must not stand in front of ours."""
SETTLE_S = 120.0
"""How long devices that were started again may take to run what they should."""


class DevicesBehindError(FleetError):
    """Devices of this machine do not run the release that their population should."""

    def __init__(self, population: str, devices: Sequence[str]) -> None:
        super().__init__(population, tuple(devices))
        self.population, self.devices = population, tuple(devices)

    def __str__(self) -> str:
        return (
            f"population {self.population}: {', '.join(self.devices)} did not run its release within {SETTLE_S:.0f} s; "
            f"expected all to; `kdpipe logs DIR {self.devices[0]}` says what it did"
        )


class RolloutEndedBadlyError(FleetError):
    """A rollout halted, or was aborted: devices keep, or went back to, what they ran before."""

    def __init__(self, population: str, state: str, reason: str) -> None:
        super().__init__(population, state, reason)
        self.population, self.state, self.reason = population, state, reason

    def __str__(self) -> str:
        return (
            f"population {self.population}: its rollout is {self.state} ({self.reason}); expected it to complete; "
            f"`kdpipe logs DIR {self.population}-1` says what a device did"
        )


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """How many devices of a population run the release that they should."""

    target: str
    digest: str
    confirmed: int
    """Said so; those of this machine since this run began, others when they last called."""
    devices: int
    """Enrolled and not revoked, those of other machines too."""
    behind: tuple[str, ...]
    """Devices of this machine that do not run it."""


class Fleet:
    """Operator of one run's fleet. Starts its processes when they are first needed."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._operator: Operator | None = None
        self._renewal: Renewal | None = None
        self._since_unix_s = 0.0
        """When this machine's devices were started: what one of them said before is no proof that it runs."""

    def roll_out(self, files: StudentFiles, population: str, *, rollout: str) -> None:
        """Bring a signed release to a population, canary first; returns when the rollout has ended, writes how.

        A rollout that a killed driver began goes on as it was created, whatever the run file says of waves now.
        """
        operator = self.ensure()
        release = read_json(files.release)
        target = release["target"]
        yank = self._yank_of(target)
        if yank is not None:
            reason = f"{target} was taken back: {yank.reason}"
            write_json(files.rollout(population), _NOTHING_MOVED | {"reason": reason, "target": target, "digest": release["digest"]})
            return
        for delta in release.get("deltas", ()):
            self._publish_delta(operator, files.deltas / delta["digest"])
        operator.publish(signed_releases(self._context.folder.keys), files.bundle)
        self._begin(operator, rollout, population, target)
        if not self._enrolled_in(operator, population):
            self._context.reporter.say(f"{population}: nobody is enrolled; {target} waits for who does")
            write_json(files.rollout(population), {**_record(operator.get_rollout(rollout)), "completed": True})
            return
        view = self._watch(operator, rollout)
        self._context.reporter.say(f"{population}: {view.state.value}, {view.confirmed} of {view.devices} confirmed. {view.reason}")
        write_json(files.rollout(population), _record(view))

    def settle(self) -> dict[str, Confirmed]:
        """Start what should run, and wait for this machine's devices until they run their population's release, or time is up.

        After a rollout that halted nothing is expected of them but that they say what they run.
        """
        if not self._wanted(incumbent_of):
            return {}
        operator = self.ensure()
        wanted = self._wanted(standing_of)  # whether a device runs what was taken back is known by now
        for population, incumbent in wanted.items():
            self._adopt(operator, population, incumbent)
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            view = operator.get_fleet()
            found = {population: self._count(view, population, read_json(i.files.release)) for population, i in wanted.items()}
            settled = not any(count.behind for count in found.values()) and all(self._has_called(view, name) for name in found)
            if settled or time.monotonic() > deadline_s:
                return found
            self._context.reporter.show([Gauge(name=name, done=count.confirmed, total=count.devices) for name, count in found.items()])
            self._wait()

    def device_folders(self, population: str) -> list[Path]:
        """Folders of the devices that this machine plays."""
        return [self._context.folder.device(name) for name in self._names(population)]

    def ensure(self) -> Operator:
        """The orchestrator and the devices, started, enrolled and in touch."""
        if self._operator is None:
            context, section = self._context, self._context.run.fleet
            if section.ask.teacher:
                context.reporter.say("devices may ask the teacher: what they ask goes to the orchestrator, which keeps none of it")
            ensure_repository(context)
            ensure_pki(make_private_folder(context.folder.fleet) / "pki", host=section.host, now=datetime.now(UTC))
            context.children.start(
                "orchestrator", self._orchestrator_command(), secrets=handed_to(context.unlock, ONLINE, context.folder.keys)
            )
            self._operator = Operator.open(context.folder.fleet, host=section.host)
            self._operator.wait_ready()
            self._renewal = Renewal(context.folder.keys, self._operator.publish, clock=lambda: datetime.now(UTC), unlock=context.unlock)
            self._renewal.look()
            self._retire(self._operator)
            self._since_unix_s = time.time()
            self._start_devices(self._operator)
        return self._operator

    def watch(self) -> None:
        """While nothing else is to do: keep the releases within their term. Raises ChildFailedError for a process that ended by itself."""
        self._context.children.check()
        if self._renewal:
            try:
                self._renewal.look()
            except FleetError as error:
                self._context.reporter.say(f"the releases could not be published for another term, the next try is in an hour: {error}")

    def close(self) -> None:
        self._renewal = None
        if self._operator:
            self._operator.close()
            self._operator = None

    def _publish_delta(self, operator: Operator, path: Path) -> None:
        """Devices do without one that the orchestrator does not take, or that is lost: they fetch the whole bundle."""
        try:
            if not path.is_file():
                raise BundleMissingError(str(path))
            operator.publish(signed_releases(self._context.folder.keys), path)
        except (OrchestratorRefusedError, BundleMissingError) as error:
            self._context.reporter.say(f"delta {path.name[:12]} is not published, devices fetch the whole bundle instead: {error}")

    def _begin(self, operator: Operator, rollout: str, population: str, target: str) -> None:
        """Create and approve a rollout, unless there is one of that name already."""
        section = self._context.run.fleet
        try:
            operator.get_rollout(rollout)
        except OrchestratorRefusedError as error:
            if error.code != "NOT_FOUND":
                raise
            operator.create_rollout(
                rollout,
                population=population,
                target=target,
                waves=section.waves,
                soak_s=section.soak_s,
                deadline_s=section.deadline_s,
            )
        operator.approve(rollout)

    def _adopt(self, operator: Operator, population: str, incumbent: Incumbent) -> None:
        """A population that was added, or given another student, gets the release that this student has."""
        target = read_json(incumbent.files.release)["target"]
        past = [view for view in operator.get_fleet().rollouts if view.population == population]
        if incumbent.files.rollout(population).exists() or any(view.target == target for view in past):
            return
        if self._yank_of(target) is not None:
            self._context.reporter.say(f"{population}: {target} was taken back; it waits for the next release")
            return
        self.roll_out(incumbent.files, population, rollout=f"{population}-{incumbent.generation:06d}-adopts")

    def _yank_of(self, target: str) -> Yank | None:
        return ReleaseSigner.open(self._context.folder.keys, self._context.unlock).yanks.get(target)

    def _retire(self, operator: Operator) -> None:
        """Devices of this machine that the run file no longer has: ended, revoked, removed."""
        kept = {name for population in self._context.run.fleet.populations for name in self._names(population)}
        self._context.children.end_others({"orchestrator", *kept})
        for folder in devices_gone(self._context.folder, self._context.run):
            if _enrolled(folder):
                operator.revoke(load_identity(DeviceFolder(folder).identity).device)
            shutil.rmtree(folder)
            self._context.reporter.say(f"{folder.name}: no longer in the run file; revoked and removed")

    def _enrolled_in(self, operator: Operator, population: str) -> int:
        return sum(device.population == population and not device.is_revoked for device in operator.get_fleet().devices)

    def _start_devices(self, operator: Operator) -> None:
        commands = {}
        for population in self._context.run.fleet.populations:
            names = self._names(population)
            self._enrol([name for name in names if not _enrolled(self._context.folder.device(name))], operator, population)
            commands.update({name: self._device_command(name) for name in names})
        self._context.children.start_all(commands)

    def _enrol(self, names: list[str], operator: Operator, population: str) -> None:
        if names:
            paths = [make_private_folder(self._enrolments) / f"{name}.json" for name in names]
            root = root_bytes(self._context.folder.releases)
            enrolment_files(operator, paths, host=self._context.run.fleet.host, population=population, root=root)

    def _watch(self, operator: Operator, rollout: str) -> RolloutView:
        while True:
            view = operator.get_rollout(rollout)
            says = f"wave {view.wave} of {view.waves}, {view.phase.value} · {view.reason}"
            self._context.reporter.show([Gauge(name=view.population, done=view.confirmed, total=view.devices, says=says)])
            self._context.metrics.series.rollout(
                view.population, offered=view.offered, confirmed=view.confirmed, failed=view.failed, lost=view.lost, devices=view.devices
            )
            if view.has_ended:
                return view
            self._wait()

    def _wait(self) -> None:
        self._context.children.check()
        self._context.stop.wait(POLL_S)
        self._context.check_stop()

    def _wanted(self, version: Callable[[RunFolder, str], Incumbent | None]) -> dict[str, Incumbent]:
        """Population -> the version it should run, by `version` of its student."""
        found = {name: version(self._context.folder, name) for name in self._context.run.students}
        return {p: i for name, i in found.items() if i for p in populations_of(self._context.run, name)}

    def _here(self, population: str) -> dict[str, str]:
        """Device -> its folder's name, of this machine."""
        return {load_identity(DeviceFolder(folder).identity).device: folder.name for folder in self.device_folders(population)}

    def _has_called(self, view: FleetView, population: str) -> bool:
        """Whether each device of this machine called since it was started: before, nobody knows what it runs."""
        here = self._here(population)
        listed = [device for device in view.devices if device.device_id in here and not device.is_revoked]
        return all(device.last_seen_unix_s >= self._since_unix_s for device in listed)

    def _count(self, view: FleetView, population: str, release: Mapping[str, Any]) -> Confirmed:
        devices = {d.device_id: d for d in view.devices if d.population == population and not d.is_revoked}
        here = self._here(population)
        running = {
            name
            for name, device in devices.items()
            if device.running_digest == release["digest"] and (name not in here or device.last_seen_unix_s >= self._since_unix_s)
        }
        latest = [rollout for rollout in view.rollouts if rollout.population == population][-1:]
        halted = any(rollout.state is not RolloutState.COMPLETED for rollout in latest)
        behind = () if halted else tuple(sorted(name for device, name in here.items() if device not in running))
        return Confirmed(target=release["target"], digest=release["digest"], confirmed=len(running), devices=len(devices), behind=behind)

    def _names(self, population: str) -> list[str]:
        """Devices of a population on this machine."""
        return devices_of(self._context.run, population)

    @property
    def _enrolments(self) -> Path:
        return self._context.folder.fleet / "enrolments"

    def _device_command(self, name: str) -> list[str]:
        folder = self._context.folder.device(name)
        enrolment = self._enrolments / f"{name}.json"
        command = [*PYTHON, "-m", "workers.edge", "run", "--dir", str(folder), "--enrolment", str(enrolment), "--metrics-port", "0"]
        command += ["--shadow-s", "1", "--trial-s", "0.5"]  # nobody else asks these devices: waiting longer shows nothing
        return command + asking_options(self._context.run.fleet.ask)

    def _orchestrator_command(self) -> list[str]:
        folder, section = self._context.folder, self._context.run.fleet
        command = [*PYTHON, "-m", "workers.orchestrator", "--dir", str(folder.fleet), "--repository", str(folder.releases)]
        command += ["--keys", str(folder.keys / ONLINE), "--host", section.host]
        for name in NAMES:
            command += [f"--{name}-port", str(getattr(section, f"{name}_port"))]
        return command + teacher_options(section.ask, folder.root)


def asking_options(ask: AskSection) -> list[str]:
    """Of `kdpipe edge run`, for a device that may ask the teacher."""
    if not ask.teacher:
        return []
    options = {"--ask-below": ask.below, "--ask-share": ask.share, "--asks-per-hour": ask.per_hour, "--ask-wait-ms": ask.wait_ms}
    return [word for name, value in options.items() for word in (name, str(value))]


def teacher_options(ask: AskSection, run: Path) -> list[str]:
    """Of the orchestrator, for one that answers with the teacher of the run in that folder."""
    return ["--teacher", str(run), "--asks-per-s", str(ask.all_per_s)] if ask.teacher else []


def _enrolled(device: Path) -> bool:
    try:
        load_identity(DeviceFolder(device).identity)
    except NotEnrolledError:
        return False
    return True


_NOTHING_MOVED: dict[str, Any] = {"state": "yanked", "completed": False, "devices": 0, "confirmed": 0, "failed": 0, "lost": 0}


def _record(view: RolloutView) -> dict[str, Any]:
    return {
        "state": view.state.value,
        "completed": view.state is RolloutState.COMPLETED,
        "devices": view.devices,
        "confirmed": view.confirmed,
        "failed": view.failed,
        "lost": view.lost,
        "reason": view.reason,
        "target": view.target,
        "digest": view.digest,
    }

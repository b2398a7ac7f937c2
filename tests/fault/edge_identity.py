"""Kill a device, or fill its disk, at every touch while it enrols, enrols anew or renews: it answers, and it is somebody.

The orchestrator's side is one object that keeps its contract: a token belongs to the first key that spends it. A kill is counted and not
slept for; from it on nothing touches the disk, clean-up neither. After each: does the device answer? Is an identity that it had still one,
the old or the new, whole? Does the same again end in one device, and can it be enrolled by yet another file?
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import grpc

from tests.kit.agents import AgentBench
from tests.kit.bundles import NOW, TEXTS, Trust
from tests.kit.fleet_server import FakeFleet
from tests.kit.kill_switch import FullDisk, KillSwitch
from workers.edge.enrol import IdentityError, enrol, load_identity, renew
from workers.edge.fleet_client import FleetRefusedError
from workers.edge.folder import DeviceFolder
from workers.edge.serving import NoModelError
from workers.rpc import fleet_pb2 as pb

LIVES = 3
"""Of a device that is killed at the same touch again and again."""


class Office(FakeFleet):
    """Enrolment without a network."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, now=NOW)
        self._servers: Any = [(None, 1), (None, 2)]  # nobody listens there

    def enroll(self, *, token: str, csr_der: bytes, hardware_class: str) -> tuple[str, bytes]:
        answer = self.Enroll(pb.EnrollRequest(token=token, csr_der=csr_der, hardware_class=hardware_class), NO_WIRE)
        return answer.device_id, answer.certificate_pem

    def renew(self, *, certificate_pem: bytes, csr_der: bytes, proof: bytes) -> bytes:
        return self.Renew(pb.RenewRequest(certificate_pem=certificate_pem, csr_der=csr_der, proof=proof), NO_WIRE).certificate_pem


class _Refuses:
    """The end of a call that there is no wire for."""

    def abort(self, code: grpc.StatusCode, details: str) -> Never:
        raise FleetRefusedError("Enroll", code.name, details)


NO_WIRE: Any = _Refuses()


@dataclass(frozen=True, kw_only=True)
class Place:
    """A device's folder, what is done there, and by which file."""

    office: Office
    trust: Trust
    folder: Path
    name: str

    @property
    def identity(self) -> Path:
        return DeviceFolder(self.folder).identity

    def file(self, token: str) -> Path:
        return self.office.enrolment_file(self.folder.with_name("enrolment.json"), token=f"{token} of {self.name}")

    def enrol(self, token: str) -> str:
        return enrol(self.identity, self.file(token), lambda _: self.office, hardware_class="test").device

    def act(self, kind: str) -> str:
        """Enrol by the second file, or renew what the first brought."""
        if kind == "renewed":
            return renew(self.identity, load_identity(self.identity), self.office).device
        return self.enrol("second")

    def wrong(self, kind: str) -> str:
        """What is wrong with the device after a fault; empty if nothing."""
        try:
            bench = AgentBench(self.folder, self.trust)
            bench.device.serving.predict(TEXTS)
            if kind != "enrolled first":
                load_identity(self.identity)
            device = self.act(kind)
            if self.enrol("third") == device:
                return "it cannot be enrolled anew"
        except (AssertionError, NoModelError, IdentityError, FleetRefusedError, OSError) as error:
            return str(error)
        return ""


def identity_faults(office: Office, trust: Trust, past: Path, to: Path, *, stride: int) -> Iterator[tuple[str, str]]:
    """(kind of fault, what is wrong after it) for each `stride`-th touch. `past` is a device that has a release and no identity."""
    for kind in ("enrolled first", "enrolled anew", "renewed"):
        for fault, strike in _FAULTS.items():
            for step in range(1, 10_000, stride):
                place = Place(office=office, trust=trust, folder=to / "device", name=f"{kind}, {fault}, {step}")
                shutil.rmtree(to, ignore_errors=True)
                shutil.copytree(past, place.folder)
                if kind != "enrolled first":
                    place.enrol("first")
                if not strike(place, kind, step):
                    break
                wrong = place.wrong(kind)
                yield fault, f"{place.name}: {wrong}" if wrong else ""


def _killed(place: Place, kind: str, step: int, *, lives: int) -> bool:
    place.file("second")
    fired = False
    for _ in range(lives):
        with KillSwitch(step) as switch:
            place.act(kind)
        fired = fired or switch.fired
    return fired


def _full(place: Place, kind: str, step: int, *, for_ever: bool) -> bool:
    with FullDisk(step, for_ever=for_ever) as switch:
        try:
            place.act(kind)
        except OSError:
            assert switch.fired
    return switch.fired


_FAULTS: dict[str, Callable[[Place, str, int], bool]] = {
    "killed while it enrols": lambda place, kind, step: _killed(place, kind, step, lives=1),
    "killed there again": lambda place, kind, step: _killed(place, kind, step, lives=LIVES),
    "no room while it enrols": lambda place, kind, step: _full(place, kind, step, for_ever=False),
    "no room from then on": lambda place, kind, step: _full(place, kind, step, for_ever=True),
}

"""The end of a run: what devices run is known once they have said it, after a rollout that halted too."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.rollout.rollout import RolloutState
from workers.driver.fleet import Fleet
from workers.driver.folder import RunFolder, write_json
from workers.driver.records import Incumbent, student_files

STARTED_S = 1_000.0


def seen(at_unix_s: float, digest: str, *, is_revoked: bool = False) -> SimpleNamespace:
    return SimpleNamespace(device_id="d-1", population="phones", running_digest=digest, last_seen_unix_s=at_unix_s, is_revoked=is_revoked)


class SettlingFleet(Fleet):
    """Its orchestrator answers with one view after the other; its one device is enrolled as d-1."""

    def __init__(self, folder: RunFolder, devices: list[SimpleNamespace]) -> None:
        context: Any = SimpleNamespace(folder=folder, reporter=SimpleNamespace(show=lambda _: None))
        super().__init__(context)
        halted = SimpleNamespace(population="phones", state=RolloutState.HALTED)
        self.views = [SimpleNamespace(devices=[device], rollouts=[halted]) for device in devices]
        self._since_unix_s = STARTED_S
        files = student_files(folder, 1, "small")
        write_json(files.release, {"target": "releases/small-000001.kdpb", "digest": "ab"})
        self.wanted = {"phones": Incumbent(generation=1, spec="s", steps_total=1, files=files)}

    def ensure(self) -> Any:
        return SimpleNamespace(get_fleet=lambda: self.views.pop(0))

    def _wanted(self, version: Any) -> Any:
        return self.wanted

    def _adopt(self, operator: Any, population: str, incumbent: Incumbent) -> None:
        pass

    def _here(self, population: str) -> dict[str, str]:
        return {"d-1": "phones-1"}

    def _wait(self) -> None:
        pass


def test_after_a_halt_devices_are_counted_once_they_called(tmp_path: Path) -> None:
    fleet = SettlingFleet(RunFolder(tmp_path), [seen(STARTED_S - 1, "ab"), seen(STARTED_S + 1, "ab")])
    count = fleet.settle()["phones"]
    assert (count.confirmed, count.devices, count.behind) == (1, 1, ())
    assert fleet.views == []


def test_a_device_that_was_revoked_is_not_waited_for(tmp_path: Path) -> None:
    fleet = SettlingFleet(RunFolder(tmp_path), [seen(0, "ab", is_revoked=True)])
    assert fleet.settle()["phones"].devices == 0

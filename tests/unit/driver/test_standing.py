"""Which version the next one starts from and must beat, after a release was taken back."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.releases.repository import create_repository
from tests.kit.bundles import Trust, text_bundle
from workers.driver import standing
from workers.driver.catalogue import Running
from workers.driver.folder import RunFolder, write_json
from workers.driver.records import student_files
from workers.driver.standing import digest_of, standing_of, start_of, taken_back

NOW = datetime.now(UTC)


class Run:
    """A run whose student shipped in generations 1 and 2."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        create_repository(self.folder.keys, self.folder.releases, now=NOW)
        self.trust = Trust(self.folder.keys, self.folder.releases)
        self.targets = {}
        for number in (1, 2):
            target = self.trust.publish(text_bundle(folder / "b", release=number), release=number, now=NOW)
            student = {"fate": "shipped", "spec": "s", "steps_total": number}
            write_json(self.folder.generation(number) / "opening.json", {})
            write_json(self.folder.generation(number) / "outcome.json", {"students": {"small": student}})
            write_json(student_files(self.folder, number, "small").release, {"target": target.path, "digest": target.digest})
            self.targets[number] = target

    def yank(self, number: int) -> None:
        self.trust.signer().yank(self.targets[number].path, reason="a typo", now=NOW)

    def found(self) -> tuple[int | None, int | None]:
        """Generations that the next one starts from, and must beat."""
        start, stands = start_of(self.folder, "small"), standing_of(self.folder, "small")
        return start.generation if start else None, stands.generation if stands else None


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def devices_run(digest: str) -> dict[str, Running]:
    return {"phones": Running(devices=2, by_digest={digest: 1})}


def test_the_latest_version_is_both_where_nothing_was_taken_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "running_of", lambda _: pytest.fail("nobody needs to be asked"))
    assert run.found() == (2, 2)
    run.yank(1)
    assert run.found() == (2, 2)
    assert taken_back(run.folder, "small") is None


def test_what_was_taken_back_is_no_parent_and_to_be_beaten_only_while_a_device_runs_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.yank(2)
    assert run.found() == (1, 1), "no orchestrator answers here"
    monkeypatch.setattr(standing, "running_of", lambda _: devices_run(run.targets[1].digest))
    assert run.found() == (1, 1)
    monkeypatch.setattr(standing, "running_of", lambda _: devices_run(run.targets[2].digest))
    assert run.found() == (1, 2)
    assert digest_of(start_of(run.folder, "small")) == run.targets[1].digest
    back = taken_back(run.folder, "small")
    assert back is not None
    assert (back.version.generation, back.yank.reason) == (2, "a typo")


def test_where_all_were_taken_back_the_next_one_starts_afresh(run: Run) -> None:
    run.yank(1)
    run.yank(2)
    assert run.found() == (None, None)
    assert digest_of(None) is None

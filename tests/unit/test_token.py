"""`kdpipe token new` by whoever may: from an orchestrator's own folder or with an admin's file, against a real orchestrator."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.kit.orchestrators import RunningOrchestrator
from workers.cli import app
from workers.edge.connection import connect_enrolment
from workers.edge.enrol import enrol


@pytest.fixture(name="orchestrator")
def _orchestrator(tmp_path: Path) -> Iterator[RunningOrchestrator]:
    with RunningOrchestrator(tmp_path) as running:
        yield running


def kdpipe(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_an_admins_file_and_the_orchestrators_own_folder_let_devices_in(orchestrator: RunningOrchestrator, tmp_path: Path) -> None:
    admin, root = orchestrator.operator_file(tmp_path / "admin.json"), orchestrator.trust.repository / "metadata" / "1.root.json"
    for where, name in ((admin, "a"), (orchestrator.folder / "fleet", "b")):
        file = tmp_path / f"{name}.json"
        made = kdpipe("token", "new", where, "mail", "--out", file, "--root", root)
        assert made.exit_code == 0, made.output
        assert file.stat().st_mode & 0o777 == 0o600
        enrol(tmp_path / name, file, connect_enrolment, hardware_class="x86")
    listed = kdpipe("device", "ls", orchestrator.folder / "fleet", "--json")
    assert len(listed.output.splitlines()) == 2


def test_devices_are_told_the_name_by_which_they_reach_it(orchestrator: RunningOrchestrator, tmp_path: Path) -> None:
    admin, root = orchestrator.operator_file(tmp_path / "admin.json"), orchestrator.trust.repository / "metadata" / "1.root.json"
    made = kdpipe("token", "new", admin, "mail", "--out", tmp_path / "many", "--count", 3, "--host", "fleet.example", "--root", root)
    assert made.exit_code == 0, made.output
    files = [json.loads(path.read_text()) for path in sorted((tmp_path / "many").iterdir())]
    ports = orchestrator.ports
    assert {(file["endpoint_enrolment"], file["endpoint_fleet"]) for file in files} == {
        (f"fleet.example:{ports.enrolment}", f"fleet.example:{ports.fleet}")
    }
    assert len({file["token"] for file in files}) == 3


@pytest.mark.parametrize(
    ("root", "says"),
    [(None, "metadata/1.root.json"), ("timestamp.json", "type timestamp"), ("forged", "its own keys"), ("nowhere", "no file")],
)
def test_trust_comes_from_a_file_that_the_admin_names_never_from_the_orchestrator(
    orchestrator: RunningOrchestrator, tmp_path: Path, root: str | None, says: str
) -> None:
    metadata = orchestrator.trust.repository / "metadata"
    forged = json.loads((metadata / "1.root.json").read_text())
    forged["signed"]["expires"] = "2099-01-01T00:00:00Z"
    (tmp_path / "forged").write_text(json.dumps(forged))
    places = {"timestamp.json": metadata / "timestamp.json"}
    option = [] if root is None else ["--root", places.get(root, tmp_path / root)]
    admin = orchestrator.operator_file(tmp_path / "admin.json")
    refused = kdpipe("token", "new", admin, "mail", "--out", tmp_path / "x.json", *option)
    assert refused.exit_code != 0
    assert says in str(refused.exception)
    assert not (tmp_path / "x.json").exists()


def test_no_file_is_overwritten_and_no_token_made_for_one_that_cannot_be_written(orchestrator: RunningOrchestrator, tmp_path: Path) -> None:
    admin, root = orchestrator.operator_file(tmp_path / "admin.json"), orchestrator.trust.repository / "metadata" / "1.root.json"
    for out, says in ((admin, "is there already"), (tmp_path / "nowhere" / "x.json", "no folder that can be written")):
        refused = kdpipe("token", "new", admin, "mail", "--out", out, "--root", root)
        assert refused.exit_code != 0
        assert says in str(refused.exception)


def test_an_admins_file_revokes_operators(orchestrator: RunningOrchestrator, tmp_path: Path) -> None:
    admin = orchestrator.operator_file(tmp_path / "admin.json")
    assert "refused from now on" in kdpipe("operator", "revoke", admin, "bob").output

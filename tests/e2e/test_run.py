"""`kdpipe run` on the digits recipe, end to end: Ray, training, gate, TUF, gRPC, devices, all real, in one folder's life.

The tests build on each other, as a user's days do. The first day, its first generation, is `finished`, whose copy lives on here.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.kit.browser import OVERLAPS, SMALL, TOO_WIDE, open_browser
from tests.kit.digits_run import FinishedRun, folder_of
from tests.kit.prometheus import Prometheus
from tests.kit.readme import EXAMPLE
from tests.kit.runs import BackgroundRun, committed, kdpipe, listening, read, teacher_rows

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, finished: FinishedRun) -> Path:
    return finished.copy(tmp_path_factory.mktemp("days") / "home")


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    return folder_of(home)


@pytest.fixture(scope="module")
def continuous(home: Path, folder: Path) -> Iterator[BackgroundRun]:
    with BackgroundRun("digits", "--continuous", cwd=home, folder=folder) as run:
        run.wait_for_stage("watching for new samples")
        yield run


def test_the_first_generation_reaches_every_device(finished: FinishedRun) -> None:
    folder = finished.folder
    summary = read(folder / "run.json")
    assert summary["devices"]["panels"]["confirmed"] == summary["devices"]["panels"]["devices"] == 3
    assert "devices confirmed 3 of 3" in finished.output
    assert summary["answers"]["panels"]["same"]
    assert summary["labels"]["rows_committed"] == summary["labels"]["rows_planned"] == summary["learning"]["teacher_rows"]
    test = summary["test"]["small"]
    assert 0.5 < test["student"]["accuracy"] <= 1
    assert 0.5 < test["control"]["accuracy"] <= 1 < test["rows"]
    assert test["student"]["steps"] == test["control"]["steps"] == 300
    assert test["student"]["of_teacher"] == {
        name: test["student"][name] / test["teacher"][name] for name in ("size_bytes", "latency_p50_ms")
    }
    assert test["teacher"]["size_bytes"] == sum((folder / "teacher" / name).stat().st_size for name in ("model.skops", "teacher.json"))
    assert test["student_minus_control"]["accuracy"] == test["student"]["accuracy"] - test["control"]["accuracy"]
    assert "against its control: accuracy" in finished.output


def test_the_readmes_example_has_the_keys_of_a_run_of_today(finished: FinishedRun) -> None:
    assert keys_of(read(EXAMPLE)) == keys_of(read(finished.folder / "run.json"))


def keys_of(value: Any, *, named_by_a_user: bool = False) -> Any:
    """The tree of keys: what stands under a name of the user's is the same for all of them."""
    if not isinstance(value, dict):
        return None
    trees = {
        key: keys_of(below, named_by_a_user=key in ("answers", "devices", "rollouts", "stages_s", "students", "test"))
        for key, below in value.items()
    }
    if not named_by_a_user:
        return trees
    return {"any name": max(trees.values(), key=lambda tree: len(json.dumps(tree)))} if trees else {}


def test_the_second_feed_makes_a_generation_that_asks_only_about_what_is_new(continuous: BackgroundRun, home: Path, folder: Path) -> None:
    before = len(committed(folder))
    fed = kdpipe("feed", folder, "2", cwd=home)
    assert fed.returncode == 0, fed.stderr
    first = read(folder / "run.json")["devices"]["panels"]["digest"]
    continuous.wait_until(lambda: (read(folder / "run.json") or {}).get("generation") == 2, "generation 2 closed")
    after = committed(folder)
    assert len(set(after)) == len(after) > before
    assert teacher_rows(folder) == [before, len(after) - before]
    summary = read(folder / "run.json")
    small = summary["outcome"]["students"]["small"]
    assert small["fate"] == "shipped", small["says"]
    assert summary["devices"]["panels"]["digest"] == small["rollouts"]["panels"]["digest"] != first
    assert summary["devices"]["panels"]["target"] == "releases/small-000002.kdpb"
    assert summary["devices"]["panels"]["confirmed"] == summary["devices"]["panels"]["devices"] == 3
    assert summary["answers"]["panels"]["same"]
    assert "generation 2, small: shipped. panels: 3 of 3 confirmed" in continuous.output
    assert summary["test"]["small"]["student"]["steps"] == small["steps_total"] == 600


def test_nothing_of_a_run_listens_beyond_loopback(continuous: BackgroundRun) -> None:
    heard = listening(continuous.tree())
    assert {name for name, _ in heard} >= {"raylet", "gcs_server"}
    assert [(name, host) for name, host in heard if not host.is_loopback] == []


def test_a_prometheus_scrapes_driver_orchestrator_and_agents(continuous: BackgroundRun, folder: Path, tmp_path: Path) -> None:
    parts = {child["part"]: child["ready"]["metrics_port"] for child in read(folder / "children.json")}
    agents = [port for part, port in parts.items() if part.startswith("panels-")]
    jobs = {"driver": [read(folder / "metrics.json")["port"]], "orchestrator": [parts["orchestrator"]], "agents": agents}
    with Prometheus(tmp_path, jobs) as prometheus:
        prometheus.wait_for("count by (job) (up == 1)", [1, 1, 3])
        prometheus.wait_for("kdpipe_student_step", [300])
        prometheus.wait_for("kdpipe_labels_committed_total", [len(committed(folder))])
        names = {name for name in prometheus.ask("label/__name__/values") if name.startswith("kdpipe_")}
        assert {name.split("_")[1] for name in names} >= {"labels", "student", "orchestrator", "edge"}
        assert "device" not in prometheus.ask("labels")
        assert "device_id" not in prometheus.ask("labels")


def test_ctrl_c_ends_every_process_and_says_how_to_go_on(continuous: BackgroundRun, folder: Path) -> None:
    children = [psutil.Process(child["pid"]) for child in read(folder / "children.json")]
    assert continuous.interrupt() == 130
    assert "`kdpipe run digits --continuous` goes on" in continuous.output
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def spoil(folder: Path, place: int) -> str:
    """Flip a bit of the shard at that place; its name."""
    shard = sorted((folder / "labels" / "shards").rglob("*.arrow"))[place]  # repairs lie behind, under a later term
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.chmod(0o600)
    shard.write_bytes(content)
    return shard.name


def test_running_again_mends_a_bad_shard_at_its_place_and_trains_nobody_but_a_control_that_failed(home: Path, folder: Path) -> None:
    before, generations = committed(folder), sorted((folder / "generations").iterdir())
    student = generations[-1] / "students" / "small"
    shutil.rmtree(student / "control")
    (student / "test.json").write_text(json.dumps(read(student / "test.json") | {"control": None, "student_minus_control": None}))
    spoilt = spoil(folder, 0)
    found = kdpipe("labels", "verify", folder, cwd=home)
    assert found.returncode == 4
    assert spoilt in found.stdout
    again = kdpipe("run", "digits", cwd=home)
    assert again.returncode == 0, again.stderr
    assert "nothing is new" in again.stdout
    assert "devices confirmed 3 of 3" in again.stdout
    assert committed(folder) == before
    assert sorted((folder / "generations").iterdir()) == generations
    assert read(folder / "run.json")["test"]["small"]["control"]["steps"] == 600


def test_a_bad_shard_is_labelled_again_on_request(home: Path, folder: Path) -> None:
    before = committed(folder)
    spoil(folder, 1)
    repaired = kdpipe("labels", "repair", folder, cwd=home)
    assert repaired.returncode == 0, repaired.stderr
    assert kdpipe("labels", "verify", folder, cwd=home).returncode == 0
    assert committed(folder) == before


def test_what_repairs_replaced_is_deleted_on_request_and_no_label_with_it(home: Path, folder: Path) -> None:
    before = committed(folder)
    assert "2 bad shards that were labelled again" in kdpipe("labels", "gc", folder, cwd=home).stdout
    assert "nothing to delete" in kdpipe("labels", "gc", folder, cwd=home).stdout
    assert committed(folder) == before


def test_labels_are_taken_elsewhere_and_priced(home: Path, folder: Path) -> None:
    out = home / "labels.parquet"
    exported = kdpipe("labels", "export", folder, out, cwd=home)
    assert f"{len(committed(folder)):,} rows" in exported.stdout
    assert kdpipe("labels", "export", folder, out, cwd=home).returncode == 2
    cost = json.loads(kdpipe("labels", "cost", folder, "--json", cwd=home).stdout)
    assert cost["rows"] == sum(spent["rows"] for spent in cost["generations"]) == len(committed(folder))
    advice = json.loads(kdpipe("labels", "advise", folder, "--budget-bytes", "20", "--json", cwd=home).stdout)
    assert advice["chosen"]["codec"] == "dense_fp16"


def test_a_student_made_worse_ships_nothing_and_says_so(home: Path, folder: Path) -> None:
    shipped = read(folder / "run.json")["devices"]["panels"]["digest"]
    worse = kdpipe("run", "digits", "--set", "students.small.learning_rate=1e-6", "--set", "students.small.steps=30", cwd=home)
    assert worse.returncode == 0, worse.stderr
    assert "refused by the gate. Keeps the incumbent: " in worse.stdout
    summary = read(folder / "run.json")
    assert summary["devices"]["panels"]["digest"] == shipped
    assert summary["learning"]["teacher_rows"] == 0
    assert summary["outcome"]["students"]["small"]["fate"] == "refused by the gate"


def test_the_report_of_it_shows_every_part_in_a_browser(home: Path, folder: Path, tmp_path: Path) -> None:
    done = kdpipe("report", folder, "-o", "report.html", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "did not ship, the gate refused it: " in done.stdout
    with open_browser(tmp_path) as browser:
        browser.look_at(home / "report.html", width=390)
        parts = browser.run("return [...document.querySelectorAll('main section')].map(s => [s.id, s.querySelectorAll('svg').length])")
        assert [name for name, plots in parts if not plots] == ["gate"]
        assert browser.run(TOO_WIDE) == browser.run(OVERLAPS) == browser.run(SMALL) == []
        assert browser.said() == []


def test_clean_removes_all_of_it(home: Path, folder: Path) -> None:
    assert kdpipe("clean", folder, "--yes", cwd=home).returncode == 0
    assert not folder.exists()

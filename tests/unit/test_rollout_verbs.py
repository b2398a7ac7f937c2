"""`kdpipe rollout`, `device` and `audit` against a real orchestrator: what they do, what they print, what they exit with."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from typer.testing import CliRunner, Result

from pipeline.rollout.rollout import RolloutState
from tests.kit.orchestrators import RunningOrchestrator
from workers.cli import app
from workers.commands.quantities import seconds, shown_s, size, waves
from workers.commands.rollout.reach import compared
from workers.edge import enrol
from workers.orchestrator.views import DeviceView
from workers.rpc import fleet_pb2, fleet_pb2_grpc

PLAN = ("small-000001", "--population", "mail", "--waves", "1,100%", "--soak", "0s", "--deadline", "1m")


@pytest.fixture(name="orchestrator")
def _orchestrator(tmp_path: Path) -> Iterator[RunningOrchestrator]:
    with RunningOrchestrator(tmp_path) as running:
        yield running


@pytest.fixture(name="file")
def _file(orchestrator: RunningOrchestrator, tmp_path: Path) -> str:
    return str(orchestrator.operator_file(tmp_path / "operator.json"))


def kdpipe(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def told(*words: str) -> str:
    result = kdpipe(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_plan_then_start_reaches_whom_the_plan_named(orchestrator: RunningOrchestrator, file: str) -> None:
    orchestrator.devices(3)
    orchestrator.release()
    plan = json.loads(told("rollout", "plan", file, *PLAN, "--json"))
    assert [wave["devices"] for wave in plan["waves"]] == [1, 2]
    text = told("rollout", "plan", file, *PLAN, "--devices")
    assert "Nothing was changed" in text
    assert plan["waves"][0]["device_ids"][0] in text
    assert "no rollout yet" in told("rollout", "ls", file)
    first = json.loads(told("rollout", "start", file, *PLAN, "--json"))
    assert first["rollout_id"] == "mail-small-000001"
    assert json.loads(told("rollout", "start", file, *PLAN, "--json"))["created_unix_s"] == first["created_unix_s"], "again is harmless"
    offered = [device.device_id for device in orchestrator.operator.get_fleet().devices if device.assigned_target]
    assert offered == plan["waves"][0]["device_ids"]


def test_pause_resume_and_abort_may_be_repeated_and_say_what_is(orchestrator: RunningOrchestrator, file: str) -> None:
    orchestrator.devices(3)
    orchestrator.release()
    told("rollout", "start", file, *PLAN)
    for _ in range(2):
        assert "running, paused" in told("rollout", "pause", file, "mail-small-000001")
    for _ in range(2):
        assert "running." in told("rollout", "resume", file, "mail-small-000001")
    for _ in range(2):
        assert "aborted" in told("rollout", "abort", file, "mail-small-000001", "keep")
    assert kdpipe("rollout", "abort", file, "mail-small-000001", "perhaps").exit_code == 2
    refused = kdpipe("rollout", "pause", file, "mail-small-000001")
    assert "cannot pause while it is aborted" in str(refused.exception)
    assert "aborted" in told("rollout", "ls", file)


def test_watch_over_a_pipe_is_lines_until_it_completes(orchestrator: RunningOrchestrator, file: str) -> None:
    devices = orchestrator.devices(3)
    target = orchestrator.release()
    told("rollout", "start", file, *PLAN)

    def live() -> None:
        while orchestrator.operator.get_rollout("mail-small-000001").state is not RolloutState.COMPLETED:
            for device in orchestrator.offered(*devices, digest=target.digest):
                device.confirm()

    thread = threading.Thread(target=live)
    thread.start()
    text = told("rollout", "watch", file, "mail-small-000001", "--every", "0.1")
    thread.join()
    assert text.splitlines()[-1].startswith("mail-small-000001: completed, wave 2 of 2, 3 of 3")
    last = json.loads(told("rollout", "watch", file, "mail-small-000001", "--json").splitlines()[-1])
    assert [wave["confirmed"] for wave in last["wave_views"]] == [1, 2]
    shown = told("rollout", "show", file, "mail-small-000001", "--events")
    assert "3 of 3 devices run it and confirmed it" in shown
    assert "wave_started" in shown
    again = kdpipe("rollout", "start", file, *PLAN)
    assert again.exit_code != 0
    assert "it is completed already, nothing was started" in str(again.exception) + again.output


def test_watch_of_a_rollout_that_halts_says_why_and_is_an_error(orchestrator: RunningOrchestrator, file: str) -> None:
    devices = orchestrator.devices(3)
    target = orchestrator.release()
    told("rollout", "start", file, *PLAN)
    (canary,) = orchestrator.offered(*devices, digest=target.digest)
    canary.sync(canary.report("FAILED", code="GOLDEN_MISMATCH"))
    result = kdpipe("rollout", "watch", file, "mail-small-000001", "--every", "0.1")
    assert "1 of 1 devices failed" in str(result.exception)
    assert getattr(result.exception, "exit_code", 0) == 8
    picture = told("rollout", "show", file, "mail-small-000001")
    assert "halted" in picture
    assert "+1.61 nats" in picture
    assert "6.91" in picture


def test_devices_are_listed_labelled_shown_and_revoked(orchestrator: RunningOrchestrator, file: str) -> None:
    first, second = orchestrator.devices(2)
    assert "ring=beta" in told("device", "label", file, first.device_id, "ring=beta")
    listed = [json.loads(line) for line in told("device", "ls", file, "--label", "ring=beta", "--json").splitlines()]
    assert [device["device_id"] for device in listed] == [first.device_id]
    assert second.device_id in told("device", "ls", file)
    assert "ring=beta" in told("device", "show", file, first.device_id)
    assert "teacher" not in told("device", "show", file, first.device_id)
    serving = fleet_pb2.ServingStats(answers=9, confidence_mean=0.5, latency_p50_ms=1.0, asked=4, agreed=3)
    fleet_pb2_grpc.FleetStub(first.channel).Sync(fleet_pb2.SyncRequest(hardware_class="x86", serving=serving), timeout=5)
    assert "teacher     said the same as 3 of 4 answers" in told("device", "show", file, first.device_id)
    assert "no label" in told("device", "label", file, first.device_id, "--remove", "ring")
    told("device", "revoke", file, second.device_id)
    told("device", "revoke", file, second.device_id)
    assert second.device_id not in told("device", "ls", file)
    assert second.device_id in told("device", "ls", file, "--revoked")
    assert "state       revoked; last not told" in told("device", "show", file, second.device_id)
    for malformed in ("ring", "ring=", "=beta"):
        assert kdpipe("device", "ls", file, "--label", malformed).exit_code == 2
        assert kdpipe("device", "label", file, first.device_id, malformed).exit_code == 2
    for verb, *more in (("show",), ("revoke",), ("label", "ring=beta")):
        unknown = str(kdpipe("device", verb, file, "d-nothere", *more).exception)
        assert "device d-nothere: there is none" in unknown
        assert "`kdpipe device ls FLEET` lists them" in unknown


def test_a_device_that_a_run_plays_is_known_by_its_folders_name_too(
    orchestrator: RunningOrchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (device,) = orchestrator.devices(1)
    (tmp_path / "origin.json").write_text(json.dumps({"run": {"fleet": {"host": "127.0.0.1"}}}))
    played = tmp_path / "devices" / "phones-1" / "identity"
    monkeypatch.setattr(enrol, "identity_in_force", lambda folder: SimpleNamespace(device=device.device_id) if folder == played else None)
    assert json.loads(told("device", "show", str(tmp_path), "phones-1", "--json"))["device_id"] == device.device_id
    assert told("device", "label", str(tmp_path), "phones-1", "ring=beta") == f"{device.device_id}: ring=beta\n"
    assert "device phones-2: there is none" in str(kdpipe("device", "show", str(tmp_path), "phones-2").exception)
    assert told("device", "revoke", str(tmp_path), "phones-1").startswith(f"{device.device_id}: revoked")


def test_devices_and_rollouts_say_which_way_the_release_came(orchestrator: RunningOrchestrator, file: str) -> None:
    first, second, third = orchestrator.devices(3)
    target = orchestrator.release()
    orchestrator.roll_out(target)
    orchestrator.offered(first, second, third, digest=target.digest)
    first.arrival = fleet_pb2.Arrival(way="FETCH_WAY_DELTA", fetched_bytes=1_200)
    second.arrival = fleet_pb2.Arrival(way="FETCH_WAY_WHOLE", fetched_bytes=17_100)
    for device in (first, second, third):
        device.confirm()
    assert f"runs        {target.digest}, came as a delta, 1.2 kB" in told("device", "show", file, first.device_id)
    assert f"runs        {target.digest}\n" in told("device", "show", file, third.device_id)
    assert json.loads(told("device", "show", file, second.device_id, "--json"))["arrival"]["way"] == "whole"
    assert "of devices that run it, 1 came whole (17.1 kB), 1 came as a delta (1.2 kB)" in told("rollout", "show", file, "r1")
    first.running_digest = "ab" * 32
    first.arrival = None
    first.sync()
    assert "came" not in told("device", "show", file, first.device_id), "what came is not what runs"
    second.arrival = fleet_pb2.Arrival(way=77, fetched_bytes=1)  # type: ignore[arg-type]  # of an agent that knows more
    second.sync()
    assert json.loads(told("device", "show", file, second.device_id, "--json"))["arrival"]["way"] == "unknown"


def test_devices_that_claim_absurd_bytes_hide_no_rollout(orchestrator: RunningOrchestrator, file: str) -> None:
    devices = orchestrator.devices(5)
    target = orchestrator.release()
    orchestrator.roll_out(target)
    for device in orchestrator.offered(*devices, digest=target.digest):
        device.arrival = fleet_pb2.Arrival(way="FETCH_WAY_WHOLE", fetched_bytes=2**62)
        device.confirm()
    assert "5 came whole" in told("rollout", "show", file, "r1")
    devices[0].arrival = fleet_pb2.Arrival(way="FETCH_WAY_WHOLE", fetched_bytes=2**62 + 1)
    with pytest.raises(grpc.RpcError, match="fetched_bytes"):
        devices[0].sync()


def completed(orchestrator: RunningOrchestrator) -> Path:
    """A run's folder whose orchestrator has brought a release to two devices, and stopped."""
    devices = orchestrator.devices(2)
    target = orchestrator.release()
    orchestrator.roll_out(target)
    for device in orchestrator.offered(*devices, digest=target.digest):
        device.confirm()
    orchestrator.wait_for(lambda: orchestrator.operator.get_rollout("r1").state is RolloutState.COMPLETED)
    orchestrator.stop()
    (orchestrator.folder / "origin.json").write_text('{"run": {"fleet": {"host": "127.0.0.1"}}}')
    return orchestrator.folder


def change(folder: Path, statement: str) -> None:
    with sqlite3.connect(folder / "fleet" / "orchestrator.db") as database:
        assert database.execute(statement).rowcount > 0


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE rollout_events SET facts = replace(facts, 'confirmed', 'failed') WHERE kind = 'outcomes'", "event 5 has hash"),
        ("UPDATE rollout_events SET facts = '{' WHERE sequence = 2", "event 2 has hash nothing"),
        ("DELETE FROM rollout_events WHERE sequence = 3", "event 3 has hash"),
        ("UPDATE rollout_events SET sequence = CASE sequence WHEN 3 THEN 104 ELSE 103 END WHERE sequence IN (3, 4)", "event 3 has hash"),
        ("DELETE FROM rollout_events WHERE kind = 'completed'", "which was there at the last audit"),
        ("DELETE FROM rollout_events", "its log ends at event 0"),
        ("UPDATE rollouts SET state = 'halted'", "shows it as halted; expected completed"),
        ("DELETE FROM rollouts", "shows it as none of its rollouts; expected completed"),
    ],
)
def test_a_tampered_database_is_named_entry_by_entry(orchestrator: RunningOrchestrator, statement: str, says: str) -> None:
    folder = completed(orchestrator)
    (before,) = json.loads(told("audit", "verify", str(folder), "--json"))
    assert (before["ok"], before["state"]) == (True, "completed")
    assert "the head seen last" in told("audit", "verify", str(folder))
    change(folder, statement)
    for _ in range(2):
        result = kdpipe("audit", "verify", str(folder))
        assert says in str(result.exception), "and again: a bad log does not become the one that is known"
        assert says not in result.output, "whoever catches the error says it, once"
        assert getattr(result.exception, "exit_code", 0) == 8


def test_an_audit_by_an_operators_file_checks_here_what_the_server_says(orchestrator: RunningOrchestrator, file: str) -> None:
    orchestrator.devices(1)
    orchestrator.roll_out(orchestrator.release())
    assert "events hold together and give running" in told("audit", "verify", file)
    assert "the head seen last" in told("audit", "verify", file, "r1")


@pytest.mark.parametrize("verb", [("rollout", "ls"), ("device", "ls"), ("audit", "verify")])
def test_a_place_that_is_no_fleet_is_one_line(tmp_path: Path, verb: tuple[str, str]) -> None:
    result = kdpipe(*verb, str(tmp_path / "nowhere"))
    assert getattr(result.exception, "exit_code", 0) == 2
    assert "expected" in str(result.exception)


def test_quantities_as_people_write_them() -> None:
    assert [seconds(text) for text in ("90", "90s", "10m", "2h", "1d", "0")] == [90, 90, 600, 7200, 86_400, 0]
    assert [size(text) for text in ("500k", "64M", "512Mi", "7")] == [500_000, 64_000_000, 512 << 20, 7]
    assert waves("1, 5%,100%") == (1, 0.05, 1.0)
    assert [shown_s(value) for value in (40, 720, 3900)] == ["40 s", "12 min", "1 h 05 min"]
    for call, text in ((seconds, "soon"), (size, "big"), (waves, "5%,50"), (waves, "half,100%"), (waves, "0,100%")):
        with pytest.raises(Exception, match="expected"):
            call(text)


def test_an_audit_by_an_operators_file_finds_old_rollouts_again_and_misses_one_that_is_gone(
    orchestrator: RunningOrchestrator, file: str, tmp_path: Path
) -> None:
    orchestrator.devices(1)
    orchestrator.roll_out(orchestrator.release())
    heads = tmp_path / "heads.json"
    told("audit", "verify", file, "--heads", str(heads))
    assert orchestrator.orchestrator.roster.rollouts.pop("r1", None) is not None, "as an old one leaves memory"
    assert "the head seen last" in told("audit", "verify", file, "--heads", str(heads))
    known = json.loads(heads.read_text())
    known["heads"]["r0"] = {"sequence": 9, "hash": "a" * 64}
    heads.write_text(json.dumps(known))
    assert "rollout r0: its log ends at event 0; expected event 9" in str(kdpipe("audit", "verify", file, "--heads", str(heads)).exception)


def test_ids_and_labels_are_whole_on_a_pipe_and_on_a_narrow_terminal(
    orchestrator: RunningOrchestrator, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (device,) = orchestrator.devices(1)
    orchestrator.release()
    told("device", "label", file, device.device_id, "ring=beta")
    told("rollout", "start", file, *PLAN)
    piped = told("device", "ls", file).splitlines()
    assert len(piped) == 2, "over a pipe a device is a line, whatever COLUMNS says"
    assert (device.device_id in piped[1], "ring=beta" in piped[1]) == (True, True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    assert device.device_id in told("device", "ls", file)
    assert "mail-small-000001: wave 1 of 2" in told("rollout", "ls", file)
    shown = told("rollout", "show", file, "mail-small-000001")
    assert "1 device " in shown
    assert all(head in shown for head in ("confirmed", "in flight", "waiting", "failed", "lost", "unfit"))


def test_an_audit_of_a_name_nobody_knows_is_a_usage_error_not_a_broken_log(orchestrator: RunningOrchestrator, file: str) -> None:
    folder = completed(orchestrator)
    result = kdpipe("audit", "verify", str(folder), "nosuch")
    assert getattr(result.exception, "exit_code", 0) == 2
    assert "there is no 'nosuch'" in str(result.exception)
    assert "`kdpipe rollout ls FLEET`" in str(result.exception)
    assert "nosuch" not in result.output, "the error is said once, by whoever catches it"


def test_numbers_beyond_the_wire_are_usage_errors() -> None:
    for call, text in ((waves, f"{10**20},100%"), (size, f"{10**20}G"), (size, "9" * 400)):
        with pytest.raises(Exception, match="expected at most"):
            call(text)


@pytest.mark.parametrize("verb", ["plan", "start"])
def test_a_rollout_that_reaches_nobody_is_refused_unless_that_is_meant(orchestrator: RunningOrchestrator, file: str, verb: str) -> None:
    orchestrator.devices(2)
    orchestrator.release()
    typo = kdpipe("rollout", verb, file, "small-000001", "-p", "nopop")
    assert "'nopop' has no device; expected a population with devices: mail (2 devices)" in str(typo.exception)
    unlabelled = kdpipe("rollout", verb, file, *PLAN, "--label", "ring=nobody")
    assert "reaches nobody (2 devices not labelled ring=nobody)" in str(unlabelled.exception)
    assert getattr(unlabelled.exception, "exit_code", 0) == 2
    assert orchestrator.operator.get_fleet().rollouts == []
    told("rollout", verb, file, *PLAN, "--label", "ring=nobody", "--for-nobody")


def test_a_start_that_must_wait_for_another_rollout_leaves_no_draft_behind(orchestrator: RunningOrchestrator, file: str) -> None:
    orchestrator.devices(2)
    orchestrator.release()
    told("rollout", "start", file, *PLAN)
    refused = kdpipe("rollout", "start", file, *PLAN, "--id", "other")
    assert getattr(refused.exception, "exit_code", 0) == 8
    assert "not started, as mail-small-000001 of population mail is running; expected one at a time" in str(refused.exception)
    told("rollout", "start", file, *PLAN)  # again, as after a lost answer
    told("rollout", "abort", file, "mail-small-000001", "keep")
    told("rollout", "start", file, *PLAN[:-1], "2m", "--id", "other")
    told("rollout", "abort", file, "other", "keep")
    again = kdpipe("rollout", "start", file, *PLAN[:-1], "3m", "--id", "other")
    assert "another content, and is aborted; an id is given once; expected the same content, or another id: --id" in str(again.exception)


def test_plan_says_that_devices_run_the_release_already(orchestrator: RunningOrchestrator, file: str) -> None:
    (device,) = orchestrator.devices(1)
    target = orchestrator.release()
    orchestrator.roll_out(target)
    assert "already" not in told("rollout", "plan", file, *PLAN)
    for offered in orchestrator.offered(device, digest=target.digest):
        offered.confirm()
    text = told("rollout", "plan", file, *PLAN)
    assert "to 1 device. Nothing" in text
    assert "The one device runs small-000001 already." in text


def test_an_older_release_than_what_runs_is_said() -> None:
    def device(target: str, digest: str = "aa") -> DeviceView:
        return DeviceView(
            device_id="d-1",
            population="mail",
            hardware="x86",
            running_digest="aa",
            state="confirmed",
            failure_code="",
            last_seen_unix_s=0.0,
            is_revoked=False,
            assigned_target=f"releases/{target}.kdpb",
            assigned_digest=digest,
        )

    devices = [device("small-000002"), device("small-000001"), device("small-000003", "bb"), device("large-000009")]
    assert compared(devices, "releases/small-000001.kdpb") == "small-000001 is older than what 1 of 4 devices run."
    assert compared(devices, "releases/small-000002.kdpb") == ""
    assert compared([], "releases/small-000001.kdpb") == ""


def test_a_name_that_is_not_there_is_answered_with_where_the_names_are(orchestrator: RunningOrchestrator, file: str) -> None:
    orchestrator.devices(1)
    assert "`kdpipe rollout ls FLEET` lists them" in str(kdpipe("rollout", "show", file, "nope").exception)
    assert "`kdpipe releases ls DIR` lists them" in str(kdpipe("rollout", "plan", file, "nosuch", "-p", "mail").exception)
    orchestrator.release()
    margins = kdpipe("rollout", "plan", file, *PLAN, "--margin", "latency=0.5")
    assert "latency 0.5, agreement 0.02, confidence 0.05" in str(margins.exception)

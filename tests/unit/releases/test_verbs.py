"""`kdpipe keys` and `kdpipe releases`, as a person types them."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from typer.testing import CliRunner, Result

from pipeline.errors import ConfigError
from pipeline.files import write_atomic
from pipeline.releases import sealing
from pipeline.releases.bundle import BundleFile, build_bundle
from pipeline.releases.keys import KeyLockedError, Unlock, load_key
from pipeline.releases.lineage import LineageEntry
from pipeline.releases.manifest import Golden
from pipeline.releases.online import BundleMissingError, ReleaseYankedError
from pipeline.releases.origin import Origin
from pipeline.releases.published import read_published
from pipeline.releases.repository import MetadataInvalidError, create_repository, sign_metadata
from pipeline.releases.signer import ReleaseExistsError, ReleaseUnknownError
from tests.kit.bundles import (
    TEXTS,
    Trust,
    target_of,
    text_bundle,
    text_manifest,
    text_probabilities,
    text_table,
    write_student,
    wrong_golden,
)
from tests.kit.devices import Device
from tests.kit.orchestrators import RunningOrchestrator
from workers.cli import app
from workers.driver import catalogue
from workers.driver.catalogue import Running
from workers.driver.folder import RunFolder, write_json
from workers.driver.releasing import lineage_of

ONE, TWO = "releases/small-000001.kdpb", "releases/small-000002.kdpb"


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_COST", 16)


def kdpipe(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "140"})


def facts(*words: str | Path) -> Any:
    said = kdpipe(*words, "--json")
    assert said.exit_code == 0, said.output
    return json.loads(said.output)


def bundle_of(folder: Path, release: int, *, parent: str | None = None, golden: list[Golden] | None = None) -> BundleFile:
    """A bundle that says where it came from."""
    table = text_table(release)
    line = {"name": "accuracy", "value": 0.97, "passed": True, "says": ""}
    report = {"ships": True, "summary": "better by 2 points", "lines": [line]}
    origin = Origin(
        generation=release, parent=parent, log="l" * 16, first_window=0, stop_window=3, rows=90, config={"width": 8}, gate=report
    )
    manifest = replace(text_manifest(release=release), origin=origin)
    graph, weights = write_student(folder / f"parts-{release}", kind="text", weights=table, width=64)
    right = [Golden(input=text, probabilities=text_probabilities(text, table)) for text in TEXTS]
    return build_bundle(folder / f"{release}.kdpb", manifest=manifest, graph=graph, weights=weights, golden=golden or right)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two releases, the second grown from the first; nothing runs."""
    folder, now = RunFolder(tmp_path / "run"), datetime.now(UTC)
    assert kdpipe("keys", "init", folder.root, "--unsealed").exit_code == 0
    trust = Trust(folder.keys, folder.releases)
    first = bundle_of(tmp_path, 1)
    second = bundle_of(tmp_path, 2, parent=first.sha256)
    for release, bundle in ((1, first), (2, second)):
        trust.publish(bundle, release=release, now=now)
        for what in ("judged", "released"):
            lineage_of(folder).append(
                LineageEntry(
                    what=what, student="small", generation=release, parent=None, teacher="teacher-1",
                    digest=bundle.sha256, passed=True, at_unix_s=1, release=release, target=f"releases/small-{release:06d}.kdpb",
                )
            )  # fmt: skip
    return folder


def test_ls_says_what_is_signed_and_that_nobody_knows_where_it_runs(run: RunFolder) -> None:
    said = kdpipe("releases", "ls", run.root)
    assert said.exit_code == 0, said.output
    assert "small-000002" in said.output
    assert "no orchestrator answers" in said.output
    found = facts("releases", "ls", run.root)
    assert [(r["path"], r["state"]) for r in found["releases"]] == [(ONE, "published"), (TWO, "published")]
    assert not found["running_is_known"]


def test_a_release_that_was_signed_and_not_published_is_told_apart(run: RunFolder, tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path / "b", release=3)
    Trust(run.keys, run.releases).signer().add(target_of(bundle, release=3), now=datetime.now(UTC))
    assert facts("releases", "ls", run.root)["releases"][-1]["state"] == "signed, not published"


def test_show_finds_a_release_by_path_name_and_digest(run: RunFolder) -> None:
    shown = facts("releases", "show", run.root, ONE)
    assert facts("releases", "show", run.root, "small-000001") == shown == facts("releases", "show", run.root, shown["digest"][:8])
    assert shown["manifest"]["origin"]["gate"]["summary"] == "better by 2 points"
    assert "better by 2 points" in kdpipe("releases", "show", run.root, ONE).output
    for name in ("small-000009", shown["digest"][:5], ""):
        assert isinstance(kdpipe("releases", "show", run.root, name).exception, ReleaseUnknownError)


def test_verify_answers_the_golden_samples_in_a_model_process(run: RunFolder) -> None:
    said = kdpipe("releases", "verify", run.root)
    assert said.exit_code == 0, said.output
    assert f"{ONE}: sound, {len(TEXTS)} golden answers within tolerance" in said.output


def test_verify_sees_changed_bytes_a_missing_bundle_and_wrong_answers(run: RunFolder, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    Trust(run.keys, run.releases).publish(bundle_of(tmp_path, 3, golden=wrong_golden(3)), release=3, now=now)
    digests = {r["path"]: r["digest"] for r in facts("releases", "ls", run.root)["releases"]}
    (run.releases / "bundles" / digests[ONE]).unlink()
    damaged = run.releases / "bundles" / digests[TWO]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    said = kdpipe("releases", "verify", run.root, "--json")
    assert said.exit_code == 7
    problems = [checked["problem"] for checked in json.loads(said.output)["releases"]]
    for word, problem in zip(("not here", "sha256", "golden sample"), problems, strict=True):
        assert word in problem


def test_verify_is_not_content_with_a_copy_of_a_published_bundle(run: RunFolder, tmp_path: Path) -> None:
    digest = facts("releases", "show", run.root, ONE)["digest"]
    kept = run.root / "generations" / "000001" / "students" / "small"
    write_json(kept / "release.json", {"digest": digest})
    (run.releases / "bundles" / digest).rename(kept / "bundle.kdpb")
    never = kdpipe("releases", "verify", run.root, ONE)
    assert never.exit_code == 0, "no population runs it, so its bundle was never sent"
    write_json(kept / "rollout-phones.json", {})
    said = kdpipe("releases", "verify", run.root, ONE)
    assert said.exit_code == 7
    assert f"{ONE}: bad: missing: releases/bundles/{digest} is not here; a copy lies at" in said.output


def test_verify_names_deltas_that_are_missing_or_changed(run: RunFolder, tmp_path: Path) -> None:
    bases = [BundleFile(path=tmp_path / f"{release}.kdpb", sha256=d["digest"], length=d["length"])
             for release, d in enumerate(facts("releases", "ls", run.root)["releases"], 1)]  # fmt: skip
    target = Trust(run.keys, run.releases).publish(bundle_of(tmp_path, 3), release=3, now=datetime.now(UTC), deltas_from=bases)
    assert len(target.deltas) == 3
    assert kdpipe("releases", "verify", run.root, target.path).exit_code == 0
    first, second, _ = target.deltas
    (run.releases / "bundles" / first.digest).unlink()
    (run.releases / "bundles" / second.digest).write_bytes(b"x")
    said = kdpipe("releases", "verify", run.root, target.path)
    assert said.exit_code == 7
    assert first.digest in said.output
    assert f"has 1 bytes, sha256 2d711642b726; signed {second.length} bytes" in said.output


def test_verify_sees_a_forged_signature(run: RunFolder) -> None:
    path = sorted((run.releases / "metadata").glob("*.releases.json"))[-1]
    tree = json.loads(path.read_bytes())
    tree["signed"]["targets"][ONE]["custom"]["security_floor"] = 0
    write_atomic(path, json.dumps(tree).encode())
    assert isinstance(kdpipe("releases", "verify", run.root).exception, MetadataInvalidError)


def test_a_yanked_release_is_installed_by_nobody_and_stays_where_it_runs(run: RunFolder, tmp_path: Path) -> None:
    trust, now = Trust(run.keys, run.releases), datetime.now(UTC)
    target = trust.online().target(ONE)
    runs_it, waits = Device(tmp_path / "one", trust, now=now), Device(tmp_path / "two", trust, now=now)
    assert runs_it.install(target, 1).incumbent is not None
    said = kdpipe("releases", "yank", run.root, "small-000001", "--reason", "learned a typo")
    assert said.exit_code == 0, said.output
    assert "only the folder was changed" in said.output
    record = waits.install(target, 1)
    assert (record.state, record.code) == ("FAILED", "unknown_release")
    runs_it.installer.sweep()
    runs_it.boot()
    assert runs_it.record.current.incumbent is not None
    assert runs_it.serving.slot is not None
    with pytest.raises(ReleaseYankedError, match="learned a typo"):
        trust.online().target(ONE)
    assert issubclass(ReleaseYankedError, BundleMissingError)
    assert [r["state"] for r in facts("releases", "ls", run.root)["releases"]] == ["yanked", "published"]


def test_a_yank_is_for_ever(run: RunFolder, tmp_path: Path) -> None:
    kdpipe("releases", "yank", run.root, TWO, "--reason", "bad")
    trust, now = Trust(run.keys, run.releases), datetime.now(UTC)
    again = kdpipe("releases", "yank", run.root, TWO, "--reason", "worse")
    assert again.exit_code == 0
    assert f"{TWO} was yanked already (bad)" in again.output
    assert "worse" not in again.output
    signer = trust.signer()
    assert signer.next_release("small") == 3
    with pytest.raises(ReleaseExistsError, match="yanked"):
        signer.add(target_of(bundle_of(tmp_path, 2), release=2), now=now)
    stale = sorted((run.releases / "metadata").glob("*.releases.json"))[-2].read_bytes()
    with pytest.raises(MetadataInvalidError, match="rolled back"):
        trust.online().publish(stale, None, now=now)
    assert trust.signer().renew(now=now)
    assert trust.signer().yanks[TWO].reason == "bad"
    signed = read_published(run.releases).releases.signed
    signed.version += 5
    signed.unrecognized_fields.clear()
    forgetful = sign_metadata(signed, load_key(run.keys / "release" / "release.pem"))
    with pytest.raises(MetadataInvalidError, match="as if it were not"):
        trust.online().publish(forgetful, None, now=now)


def test_lineage_walks_from_a_release_to_what_it_grew_from(run: RunFolder) -> None:
    chain = facts("releases", "lineage", run.root, TWO)
    assert [(a["path"], a["teacher"], a["gate_uses"]) for a in chain] == [(TWO, "teacher-1", 2), (ONE, "teacher-1", 1)]
    assert chain[0]["origin"]["parent"] == chain[1]["digest"]
    said = kdpipe("releases", "lineage", run.root, TWO).output
    assert "    └── pass accuracy" in said
    for words in ("teacher teacher-1", "windows 0 to 2", "width=8", "better by 2 points", f"grew from {ONE}"):
        assert words in said


def test_lineage_goes_by_the_runs_own_log_where_a_bundle_is_gone(run: RunFolder) -> None:
    for path in (run.releases / "bundles").iterdir():
        path.unlink()
    chain = facts("releases", "lineage", run.root, TWO)
    assert [(a["path"], a["teacher"], a["origin"]) for a in chain] == [(TWO, "teacher-1", None)]


def test_a_running_orchestrator_publishes_the_yank_and_says_who_runs_what(tmp_path: Path) -> None:
    with RunningOrchestrator(tmp_path) as orchestrator:
        now = datetime.now(UTC)
        bundle = text_bundle(tmp_path / "b")
        metadata = orchestrator.trust.signer().add(target_of(bundle), now=now)
        orchestrator.operator.publish(metadata, bundle.path)
        (tmp_path / "releases").symlink_to(orchestrator.trust.repository)
        assert facts("releases", "ls", tmp_path)["running_is_known"]
        said = kdpipe("releases", "yank", tmp_path, "small-000001", "--reason", "bad")
        assert said.exit_code == 0, said.output
        assert "published by the running orchestrator" in said.output
    assert [r["state"] for r in facts("releases", "ls", tmp_path)["releases"]] == ["yanked"]


def test_init_wants_passphrases_or_to_be_told_that_none_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = kdpipe("keys", "init", tmp_path / "run").exception
    assert isinstance(error, ConfigError)
    assert "KDPIPE_OFFLINE_PASSPHRASE" in str(error)
    assert not (tmp_path / "run" / "keys").exists()
    for owner in ("OFFLINE", "RELEASE", "ONLINE"):
        monkeypatch.setenv(f"KDPIPE_{owner}_PASSPHRASE", owner)
    said = kdpipe("keys", "init", tmp_path / "run")
    assert said.exit_code == 0, said.output
    assert "Move them to offline storage now" in said.output
    assert "Not under a passphrase" not in said.output
    assert all(sealing.is_sealed(pem.read_bytes()) for pem in (tmp_path / "run" / "keys").rglob("*.pem"))
    assert "a repository is here already" in str(kdpipe("keys", "init", tmp_path / "run").exception)


def test_show_says_who_signs_until_when_and_warns_of_root_keys_that_lie_about(run: RunFolder) -> None:
    said = kdpipe("keys", "show", run.root)
    assert said.exit_code == 0, said.output
    assert "3 root keys lie here" in said.output
    shutil.rmtree(run.keys / "offline")
    found = facts("keys", "show", run.root)
    assert [(role["name"], role["threshold"], len(role["keys"])) for role in found["roles"]] == [
        ("root", 2, 3), ("targets", 1, 1), ("snapshot", 1, 1), ("timestamp", 1, 1), ("release", 1, 1), ("assignment", 1, 1)
    ]  # fmt: skip
    assert found["warnings"] == []
    assert "not here" in kdpipe("keys", "show", run.root).output


def test_show_fails_where_root_has_expired_and_names_the_command_that_helps(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    create_repository(folder.keys, folder.releases, now=datetime.now(UTC) - timedelta(days=400))
    said = kdpipe("keys", "show", folder.root)
    assert said.exit_code == 7
    assert "root metadata expired" in said.output
    assert "kdpipe keys renew DIR root" in said.output
    assert kdpipe("keys", "renew", folder.root).exit_code == 0
    assert kdpipe("keys", "show", folder.root).exit_code == 0


def test_rotate_says_what_is_new_and_what_to_move_away(run: RunFolder) -> None:
    said = kdpipe("keys", "rotate", run.root, "targets", "timestamp")
    assert said.exit_code == 0, said.output
    assert "targets: new key" in said.output
    assert "to offline storage now" in said.output
    assert facts("releases", "ls", run.root)["releases"][0]["state"] == "published"
    assert "one of: root" in str(kdpipe("keys", "rotate", run.root, "roots").exception)


def test_a_key_that_lies_elsewhere_is_named_when_it_is_made_or_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signers = [CryptoSigner.generate_ed25519() for _ in range(2)]
    for name, signer in zip(("FIRST", "SECOND"), signers, strict=True):
        monkeypatch.setenv(name, signer.private_bytes.decode())
    root = tmp_path / "run"
    assert kdpipe("keys", "init", root, "--unsealed", "--use", "release=env:FIRST").exit_code == 0
    assert not (root / "keys" / "release" / "release.pem").exists()
    done = facts("keys", "rotate", root, "release", "--use", "release=env:SECOND")
    assert done["keys"] == {"release": signers[1].public_key.keyid}
    Trust(root / "keys", root / "releases").online()
    assert "KEY one of" in str(kdpipe("keys", "rotate", root, "release", "--use", "nobody=env:X").exception)


def test_a_sealed_release_key_without_its_passphrase_yanks_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDPIPE_RELEASE_PASSPHRASE", "x")
    assert kdpipe("keys", "rotate", run.root, "release").exit_code == 0
    monkeypatch.delenv("KDPIPE_RELEASE_PASSPHRASE")
    assert isinstance(kdpipe("releases", "yank", run.root, ONE, "--reason", "bad").exception, KeyLockedError)
    assert [r["state"] for r in facts("releases", "ls", run.root)["releases"]] == ["published", "published"]


@pytest.mark.parametrize("verb", [("keys", "show"), ("keys", "renew"), ("releases", "ls"), ("releases", "verify")])
def test_a_folder_without_a_run_is_told_like_everywhere(tmp_path: Path, verb: tuple[str, str]) -> None:
    error = kdpipe(*verb, tmp_path).exception
    assert isinstance(error, ConfigError)
    assert "no run was started here" in str(error)
    (tmp_path / "operator.json").write_text("{}")
    assert "an operator's file is no run's folder" in str(kdpipe(*verb, tmp_path / "operator.json").exception)


def test_a_run_that_lost_its_repository_is_told(tmp_path: Path) -> None:
    (tmp_path / "origin.json").write_text("{}")
    error = kdpipe("releases", "ls", tmp_path).exception
    assert isinstance(error, MetadataInvalidError)
    assert "no such file" in str(error)


def test_passphrases_that_are_typed_are_typed_twice_and_seal_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.commands.keys.init.someone_types", lambda: True)
    for owner in ("OFFLINE", "ONLINE"):
        monkeypatch.setenv(f"KDPIPE_{owner}_PASSPHRASE", "given")
    words = ["keys", "init", str(tmp_path / "run")]
    mistyped = CliRunner().invoke(app, words, input="right\nrihgt\nright\nright\n")
    assert mistyped.exit_code == 0, mistyped.output
    assert "do not match" in mistyped.output
    path, variable = tmp_path / "run" / "keys" / "release" / "release.pem", "KDPIPE_RELEASE_PASSPHRASE"
    load_key(path, Unlock(environment={variable: "right"}))
    with pytest.raises(KeyLockedError):
        load_key(path, Unlock(environment={variable: "rihgt"}))


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_yank_without_a_reason_is_refused(run: RunFolder, reason: str) -> None:
    error = kdpipe("releases", "yank", run.root, ONE, "--reason", reason).exception
    assert isinstance(error, ConfigError)
    assert "--reason" in str(error)
    assert facts("releases", "ls", run.root)["releases"][0]["state"] == "published"


@pytest.mark.parametrize(
    ("devices", "says"),
    [(0, "no device runs it"), (1, "1 device still runs it and goes on; `kdpipe rollout"), (3, "3 devices still")],
)
def test_a_yank_says_how_many_devices_go_on(run: RunFolder, monkeypatch: pytest.MonkeyPatch, devices: int, says: str) -> None:
    digest = facts("releases", "show", run.root, ONE)["digest"]
    running = {"edge": Running(devices=5, by_digest={digest: devices})}
    monkeypatch.setattr(catalogue, "running_of", lambda _: running)
    said = kdpipe("releases", "yank", run.root, ONE, "--reason", "bad").output
    assert says in said
    row = next(line for line in kdpipe("releases", "ls", run.root).output.splitlines() if "small-000001" in line)
    assert row.split()[2:4] == ["-", "-"]


@pytest.mark.parametrize("verb", [("releases", "ls"), ("keys", "show")])
def test_a_narrow_terminal_folds_and_a_pipe_is_never_folded(run: RunFolder, verb: tuple[str, str]) -> None:
    words = [*verb, str(run.root)]
    piped = CliRunner().invoke(app, words, env={"COLUMNS": "30"}).output
    assert any(len(line) > 50 for line in piped.splitlines())
    narrow = CliRunner().invoke(app, words, env={"COLUMNS": "50", "FORCE_COLOR": "1"}).output
    assert "\u2026" not in narrow
    assert len(narrow.splitlines()) > len(piped.splitlines())

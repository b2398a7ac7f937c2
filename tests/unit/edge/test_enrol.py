"""Enrolment over real TLS: the key stays, the token is spent once, a kill in between costs nothing."""

import contextlib
import json
import os
import random
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from tests.kit.fleet_server import FakeFleet
from tests.kit.kill_switch import KillSwitch
from workers.edge.cli import app
from workers.edge.enrol import (
    CertificateRefusedError,
    EnrolmentInvalidError,
    Fleet,
    IdentityBrokenError,
    NotEnrolledError,
    enrol,
    load_identity,
    renew,
)
from workers.edge.fleet_client import EnrolmentClient, FleetRefusedError, FleetUnreachableError


def connect(fleet: Fleet) -> EnrolmentClient:
    return EnrolmentClient(fleet.endpoint_enrolment, fleet.ca_pem)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    with FakeFleet(tmp_path, now=datetime.now(UTC)) as fleet:
        yield fleet


def test_a_device_gets_the_name_in_its_certificate_and_keeps_its_key_to_itself(fleet: FakeFleet, tmp_path: Path) -> None:
    identity = enrol(tmp_path / "identity", fleet.enrolment_file(tmp_path / "e"), connect, hardware_class="test")
    assert identity.device == "d-1"
    assert identity == load_identity(tmp_path / "identity")
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "identity" / "key.pem").stat().st_mode) == 0o600
    assert "token-1" not in "".join(p.read_text() for p in (tmp_path / "identity").iterdir())


def test_enrolling_again_spends_no_token(fleet: FakeFleet, tmp_path: Path) -> None:
    file = fleet.enrolment_file(tmp_path / "e")
    first = enrol(tmp_path / "identity", file, connect, hardware_class="test")
    file.unlink()
    assert enrol(tmp_path / "identity", file, connect, hardware_class="test") == first


def test_killed_at_any_step_the_next_try_becomes_the_same_device(fleet: FakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for step in range(1, 60):
        file = fleet.enrolment_file(tmp_path / "e", token=f"token-{step}")
        folder = tmp_path / str(step)
        with KillSwitch(step) as switch:
            enrol(folder, file, connect, hardware_class="test")
        identity = enrol(folder, file, connect, hardware_class="test")
        assert identity.device == f"d-{step}"
        if not switch.fired:
            assert step > 8
            return
    raise AssertionError("never ran through")


def test_another_enrolment_file_enrols_anew_and_the_same_again_does_nothing(fleet: FakeFleet, tmp_path: Path) -> None:
    folder, file = tmp_path / "identity", fleet.enrolment_file(tmp_path / "e")
    first = enrol(folder, file, connect, hardware_class="test")
    assert enrol(folder, file, connect, hardware_class="test") == first
    assert len(fleet.enrolled) == 1
    second = enrol(folder, fleet.enrolment_file(tmp_path / "e2", token="token-2"), connect, hardware_class="test")
    assert (second.device, second.key_pem == first.key_pem) == ("d-2", False)
    assert second == load_identity(folder)
    assert sorted(path.name for path in tmp_path.glob("identity*")) == ["identity"], "no old key stays behind"


def test_the_verb_says_whether_anything_was_done(fleet: FakeFleet, tmp_path: Path) -> None:
    said = []
    for token in ("token-1", "token-1", "token-2"):
        file = fleet.enrolment_file(tmp_path / "e", token=token)
        said.append(CliRunner().invoke(app, ["enrol", str(tmp_path / "device"), "--enrolment", str(file)]).stdout.strip())
    assert said == ["enrolled as d-1", "enrolled as d-1 by this file already; nothing to do", "enrolled as d-2"]


def test_an_enrolment_file_that_does_not_work_leaves_the_identity_as_it_was(fleet: FakeFleet, tmp_path: Path) -> None:
    folder = tmp_path / "identity"
    first = enrol(folder, fleet.enrolment_file(tmp_path / "e"), connect, hardware_class="test")
    tree = json.loads((tmp_path / "e").read_text())
    (tmp_path / "used").write_text(json.dumps({**tree, "token": "somebody else's"}))
    with pytest.raises(FleetRefusedError):
        enrol(folder, tmp_path / "used", connect, hardware_class="test")
    assert load_identity(folder) == first
    (tmp_path / "used").write_text("no JSON")
    with pytest.raises(EnrolmentInvalidError):
        enrol(folder, tmp_path / "used", connect, hardware_class="test")
    assert load_identity(folder) == first


def test_whatever_rots_in_an_identity_is_told_and_another_file_heals_it(fleet: FakeFleet, tmp_path: Path) -> None:
    folder = tmp_path / "identity"
    enrol(folder, fleet.enrolment_file(tmp_path / "e"), connect, hardware_class="test")
    rng = random.Random(1)
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for rotten in (b"", b"[]", b"{}", b"\0" * 64, good[: len(good) // 2], *(_flipped(good, rng) for _ in range(40))):
            path.write_bytes(rotten)
            with contextlib.suppress(IdentityBrokenError):  # a flipped bit of an endpoint reads
                load_identity(folder)
        path.write_bytes(b"rot")
        with pytest.raises(IdentityBrokenError, match="kdpipe edge enrol"):
            load_identity(folder)
        with pytest.raises(FleetRefusedError):
            enrol(folder, tmp_path / "e", connect, hardware_class="test")  # its token is spent
        assert enrol(folder, fleet.enrolment_file(tmp_path / "f", token=path.name), connect, hardware_class="test") == load_identity(folder)


def _flipped(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def test_an_answer_lost_on_the_way_is_asked_for_again_and_gives_the_same_device(fleet: FakeFleet, tmp_path: Path) -> None:
    file = fleet.enrolment_file(tmp_path / "e")
    fleet.lose_enrol_answers = 1
    with pytest.raises(FleetUnreachableError):
        enrol(tmp_path / "identity", file, connect, hardware_class="test")
    assert enrol(tmp_path / "identity", file, connect, hardware_class="test").device == "d-1"
    assert len(fleet.enrolled) == 1


def test_a_token_cannot_be_spent_by_a_second_device(fleet: FakeFleet, tmp_path: Path) -> None:
    file = fleet.enrolment_file(tmp_path / "e")
    enrol(tmp_path / "one", file, connect, hardware_class="test")
    with pytest.raises(FleetRefusedError, match="UNAUTHENTICATED"):
        enrol(tmp_path / "two", file, connect, hardware_class="test")


def test_a_server_with_another_ca_gets_no_token(fleet: FakeFleet, tmp_path: Path) -> None:
    with FakeFleet(tmp_path / "other", now=datetime.now(UTC)) as other:
        tree = json.loads(other.enrolment_file(tmp_path / "e").read_text())
        tree["endpoint_enrolment"] = json.loads(fleet.enrolment_file(tmp_path / "f").read_text())["endpoint_enrolment"]
        (tmp_path / "e").write_text(json.dumps(tree))
        with pytest.raises(FleetUnreachableError):
            enrol(tmp_path / "identity", tmp_path / "e", connect, hardware_class="test")
    assert fleet.enrolled == {}


def test_a_certificate_for_another_key_is_refused(fleet: FakeFleet, tmp_path: Path) -> None:
    other = enrol(tmp_path / "other", fleet.enrolment_file(tmp_path / "e"), connect, hardware_class="test")

    class Swapped:
        def enroll(self, **_: object) -> tuple[str, bytes]:
            return other.device, other.certificate_pem

        def renew(self, **_: object) -> bytes:
            return other.certificate_pem

    with pytest.raises(CertificateRefusedError, match="another key"):
        enrol(tmp_path / "mine", fleet.enrolment_file(tmp_path / "f", token="t2"), lambda _: Swapped(), hardware_class="test")
    mine = enrol(tmp_path / "mine", fleet.enrolment_file(tmp_path / "f", token="t2"), connect, hardware_class="test")
    with pytest.raises(CertificateRefusedError, match="another key"):
        renew(tmp_path / "mine", mine, Swapped())
    assert load_identity(tmp_path / "mine") == mine


def test_renewal_keeps_key_and_name_and_is_due_when_a_third_is_left(fleet: FakeFleet, tmp_path: Path) -> None:
    identity = enrol(tmp_path / "identity", fleet.enrolment_file(tmp_path / "e"), connect, hardware_class="test")
    now = datetime.now(UTC)
    assert not identity.renewal_due(now)
    assert identity.renewal_due(now + timedelta(days=21))
    fleet.certificate_days = 90
    with connect(identity.fleet) as client:
        renewed = renew(tmp_path / "identity", identity, client)
    assert (renewed.device, renewed.key_pem) == (identity.device, identity.key_pem)
    assert renewed.certificate.not_valid_after_utc > identity.certificate.not_valid_after_utc
    assert isinstance(renewed.certificate, x509.Certificate)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"token": "t"}', '{"token": "t", "version": 2}', '{"token": "t", "version": 1}'])
def test_a_file_that_is_no_enrolment_file_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "e").write_text(text)
    with pytest.raises(EnrolmentInvalidError, match="ask the operator"):
        enrol(tmp_path / "identity", tmp_path / "e", connect, hardware_class="test")
    with pytest.raises(NotEnrolledError, match="kdpipe edge enrol"):
        load_identity(tmp_path / "identity")

"""Assignments: what a thief of the online key, or of the network, cannot do."""

import base64
import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from pipeline.releases.assignment import Assignment, AssignmentRefusedError, assignment_keys, sign_assignment, verify_assignment
from pipeline.releases.keys import load_key
from pipeline.releases.repository import MetadataInvalidError
from tests.kit.bundles import NOW, Trust

SIGNER = CryptoSigner.generate_ed25519()
KEYS = {SIGNER.public_key.keyid: SIGNER.public_key}
ONE = Assignment(
    device="d-1", target="releases/small-000001.kdpb", digest="a" * 64, generation=3, issued=NOW, expires=NOW + timedelta(hours=1)
)
ENVELOPE = sign_assignment(ONE, SIGNER)


def test_an_assignment_reads_back() -> None:
    assert verify_assignment(ENVELOPE, KEYS, device="d-1", now=NOW) == ONE


def test_the_repository_lists_its_own_assignment_key(tmp_path: Path) -> None:
    trust = Trust.make(tmp_path)
    keys = assignment_keys((trust.repository / "metadata" / "1.targets.json").read_bytes())
    envelope = sign_assignment(ONE, load_key(trust.keys / "online" / "assignment.pem"))
    assert verify_assignment(envelope, keys, device="d-1", now=NOW) == ONE
    with pytest.raises(MetadataInvalidError):
        assignment_keys((trust.repository / "metadata" / "1.releases.json").read_bytes())


def test_an_assignment_for_another_device_is_refused() -> None:
    with pytest.raises(AssignmentRefusedError, match="for device"):
        verify_assignment(ENVELOPE, KEYS, device="d-2", now=NOW)


def test_an_expired_assignment_is_refused() -> None:
    with pytest.raises(AssignmentRefusedError, match="expired"):
        verify_assignment(ENVELOPE, KEYS, device="d-1", now=NOW + timedelta(hours=1))


def test_an_assignment_by_an_arbitrary_key_is_refused() -> None:
    stranger = sign_assignment(ONE, CryptoSigner.generate_ed25519())
    with pytest.raises(AssignmentRefusedError, match="lists"):
        verify_assignment(stranger, KEYS, device="d-1", now=NOW)
    forged = {**json.loads(stranger), "keyid": SIGNER.public_key.keyid}
    with pytest.raises(AssignmentRefusedError, match="does not fit"):
        verify_assignment(json.dumps(forged).encode(), KEYS, device="d-1", now=NOW)


def test_a_payload_changed_after_signing_is_refused() -> None:
    tree = json.loads(ENVELOPE)
    payload = base64.b64decode(tree["payload"]).replace(b'"generation":3', b'"generation":9')
    tree["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(AssignmentRefusedError, match="does not fit"):
        verify_assignment(json.dumps(tree).encode(), KEYS, device="d-1", now=NOW)


def test_a_signature_over_the_bare_payload_is_refused() -> None:
    tree = json.loads(ENVELOPE)
    tree["signature"] = SIGNER.sign(base64.b64decode(tree["payload"])).signature
    with pytest.raises(AssignmentRefusedError, match="does not fit"):
        verify_assignment(json.dumps(tree).encode(), KEYS, device="d-1", now=NOW)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(AssignmentRefusedError, match="version"):
        verify_assignment(json.dumps({**json.loads(ENVELOPE), "version": 2}).encode(), KEYS, device="d-1", now=NOW)


@pytest.mark.parametrize("generation", [0, -1, True, "3", 2**70, 1.5])
def test_a_generation_that_is_no_number_from_one_is_refused(generation: object) -> None:
    payload = base64.b64decode(json.loads(ENVELOPE)["payload"])
    tree = {**json.loads(payload), "generation": generation}
    data = json.dumps(tree).encode()
    signature = SIGNER.sign(b"kdpipe.assignment.v1\n" + data)
    envelope = {"version": 1, "payload": base64.b64encode(data).decode(), "keyid": signature.keyid, "signature": signature.signature}
    with pytest.raises(AssignmentRefusedError, match="wrong types"):
        verify_assignment(json.dumps(envelope).encode(), KEYS, device="d-1", now=NOW)


@given(st.binary(max_size=400) | st.integers(0, len(ENVELOPE) - 1).map(lambda at: ENVELOPE[:at] + b"~" + ENVELOPE[at + 1 :]))
def test_garbage_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(AssignmentRefusedError):
        verify_assignment(data, KEYS, device="d-1", now=NOW)


def test_a_huge_envelope_is_refused_unread() -> None:
    with pytest.raises(AssignmentRefusedError, match="at most"):
        verify_assignment(b"[" * 1_000_000, KEYS, device="d-1", now=NOW)

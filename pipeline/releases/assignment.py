"""Assignments: which device should run which signed release (the director of Uptane).

Signed by an online key that targets metadata lists under the role `assignment`. Whoever steals that key can choose among signed
releases only. An assignment is for one device; its generation only grows, and whether it does is the device's check
(`pipeline.rollout.device`), because the device remembers. Ed25519 over a prefix and the exact payload bytes; no canonical form is needed.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature, Signer
from tuf.api.metadata import Targets

from pipeline.errors import ReleaseError
from pipeline.releases.repository import ROLE_ASSIGNMENT, MetadataInvalidError, parse_metadata

ENVELOPE_VERSION = 1
ASSIGNMENT_VALID = timedelta(days=14)
"""Of each; the orchestrator signs a new one in time."""
MAX_ENVELOPE_BYTES = 16_384
MAX_GENERATION = 2**62
"""Far beyond what is ever counted to, and still a number that every part can add one to."""
_PREFIX = b"kdpipe.assignment.v1\n"


class AssignmentRefusedError(ReleaseError):
    """An assignment is malformed, not signed by a listed key, for another device, or expired."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        return f"assignment: {self.found}; expected {self.expected}; the device keeps what it runs"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The desired state of one device. Times are aware, whole seconds."""

    device: str
    target: str
    """TUF target path of the release."""
    digest: str
    generation: int
    issued: datetime
    expires: datetime
    keyid: str = field(default="", compare=False)
    """Of the key whose signature was verified."""


def sign_assignment(assignment: Assignment, signer: Signer) -> bytes:
    """The signed envelope that Sync carries."""
    payload = json.dumps(
        {
            "device": assignment.device,
            "target": assignment.target,
            "digest": assignment.digest,
            "generation": assignment.generation,
            "issued": int(assignment.issued.timestamp()),
            "expires": int(assignment.expires.timestamp()),
        },
        separators=(",", ":"),
    ).encode()
    signature = signer.sign(_PREFIX + payload)
    envelope = {
        "version": ENVELOPE_VERSION,
        "payload": base64.b64encode(payload).decode(),
        "keyid": signature.keyid,
        "signature": signature.signature,
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


def verify_assignment(envelope: bytes, keys: Mapping[str, Key], *, device: str, now: datetime) -> Assignment:
    """The assignment inside a signed envelope, for this device and in force. Raises AssignmentRefusedError.

    `keys` come from verified targets metadata (`assignment_keys`); `now` is trusted time.
    """
    tree = _parse(envelope)
    keyid, payload_text, signature = (tree.get(name) for name in ("keyid", "payload", "signature"))
    if not (isinstance(keyid, str) and isinstance(payload_text, str) and isinstance(signature, str)):
        raise AssignmentRefusedError("an envelope without payload, keyid or signature", "all three")
    key = keys.get(keyid)
    if key is None:
        raise AssignmentRefusedError(
            f"a signature by key {keyid[:12]!r}", f"a key that targets metadata lists: {sorted(k[:12] for k in keys)}"
        )
    try:
        payload = base64.b64decode(payload_text, validate=True)
        key.verify_signature(Signature(keyid, signature), _PREFIX + payload)
    except (UnverifiedSignatureError, binascii.Error, ValueError) as error:
        raise AssignmentRefusedError("a signature that does not fit", "the bytes that the key signed") from error
    assignment = _read(payload)
    if assignment.device != device:
        raise AssignmentRefusedError(f"one for device {assignment.device!r:.80}", f"one for {device!r}")
    if now >= assignment.expires:
        raise AssignmentRefusedError(f"one that expired at {assignment.expires.isoformat()}", f"one in force at {now.isoformat()}")
    return replace(assignment, keyid=keyid)


def assignment_keys(targets_metadata: bytes) -> dict[str, Key]:
    """Keys that may sign assignments, from targets metadata that the caller has verified. Raises MetadataInvalidError."""
    targets = parse_metadata(targets_metadata, Targets, name="targets").signed
    roles = targets.delegations.roles if targets.delegations is not None else None
    if targets.delegations is None or not roles or ROLE_ASSIGNMENT not in roles:
        raise MetadataInvalidError("targets", "no assignment keys", f"a delegation named {ROLE_ASSIGNMENT}")
    return {keyid: targets.delegations.keys[keyid] for keyid in roles[ROLE_ASSIGNMENT].keyids}


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_ENVELOPE_BYTES:
        raise AssignmentRefusedError(f"{len(data)} bytes", f"at most {MAX_ENVELOPE_BYTES}")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AssignmentRefusedError("bytes that are not JSON", "a signed envelope") from error
    if not isinstance(tree, dict) or tree.get("version") != ENVELOPE_VERSION:
        raise AssignmentRefusedError("an envelope of an unknown version", f"version {ENVELOPE_VERSION}")
    return tree


def _read(payload: bytes) -> Assignment:
    try:
        tree = json.loads(payload)
        assignment = Assignment(
            device=tree["device"],
            target=tree["target"],
            digest=tree["digest"],
            generation=tree["generation"],
            issued=datetime.fromtimestamp(tree["issued"], UTC),
            expires=datetime.fromtimestamp(tree["expires"], UTC),
        )
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
        raise AssignmentRefusedError("a payload that does not parse", "device, target, digest, generation, issued, expires") from error
    fits = all(isinstance(v, str) for v in (assignment.device, assignment.target, assignment.digest))
    generation = assignment.generation
    if not fits or type(generation) is not int or not 0 < generation <= MAX_GENERATION:
        raise AssignmentRefusedError("a payload of wrong types", "three names and a generation from 1")
    return assignment

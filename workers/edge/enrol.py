"""How a device gets its identity: one file brings the trust, the key never leaves the device.

The key pair is made here and is durable before the token is spent. Killed in between, the next try sends the same key with the same token,
and the orchestrator answers with the same device again. A new identity grows in a folder beside the one in force; its certificate is
written last, and from then on it is the identity, whatever is killed. Renewal proves the same key.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.errors import DeviceError
from pipeline.files import FileTooLargeError, make_private_folder, read_bounded, sync_folder, write_atomic

ENROLMENT_VERSION = 1
MAX_ENROLMENT_BYTES = 1 << 20
CN_PREFIX = "device:"
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)
"""What `cryptography` and `json` make of bytes that are not what they should be."""
RENEW_BELOW_SHARE = 1 / 3
"""A certificate is renewed when less than this share of its life is left."""


class IdentityError(DeviceError):
    """The device has no identity that its fleet would know. Family of the errors below."""


class EnrolmentInvalidError(IdentityError):
    """The enrolment file does not read."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path, self.found = path, found

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; expected an enrolment file of version {ENROLMENT_VERSION}; ask the operator for a new one"


class NotEnrolledError(IdentityError):
    """The device's folder has no identity."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.folder = folder

    def __str__(self) -> str:
        return f"{self.folder}: not enrolled; expected an identity; `kdpipe edge enrol {self.folder} --enrolment FILE`"


class IdentityBrokenError(IdentityError):
    """The device's identity does not read: rot on the flash, or somebody's hand."""

    def __init__(self, folder: str, found: str) -> None:
        super().__init__(folder, found)
        self.folder, self.found = folder, found

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.found}; expected a key, its certificate and a fleet; the device answers on; to enrol it anew: "
            f"`kdpipe edge enrol {Path(self.folder).parent} --enrolment FILE`"
        )


class CertificateRefusedError(IdentityError):
    """What came back from enrolment is not a certificate for this device's key."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"enrolment answer: {self.found}; expected a certificate for this device's own key; check the enrolment file's endpoint"


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Where the fleet is and what to trust, from the enrolment file."""

    endpoint_enrolment: str
    endpoint_fleet: str
    ca_pem: str
    root: str
    """TUF root, version 1, as JSON text."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """An enrolled device."""

    device: str
    key_pem: bytes
    certificate_pem: bytes
    fleet: Fleet
    token_sha256: str
    """Of the token that it was enrolled with."""

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate_pem)

    def renewal_due(self, now: datetime) -> bool:
        """Less than a third of the certificate's life is left at `now` (aware)."""
        life: timedelta = self.certificate.not_valid_after_utc - self.certificate.not_valid_before_utc
        return now > self.certificate.not_valid_after_utc - life * RENEW_BELOW_SHARE


class Enrolment(Protocol):
    """The Enrollment service, as `fleet_client.EnrolmentClient` calls it."""

    def enroll(self, *, token: str, csr_der: bytes, hardware_class: str) -> tuple[str, bytes]: ...
    def renew(self, *, certificate_pem: bytes, csr_der: bytes, proof: bytes) -> bytes: ...


def load_identity(folder: Path) -> Identity:
    """The identity in `folder`. Raises NotEnrolledError, IdentityBrokenError."""
    where = _in_force(folder)
    try:
        files = {name: read_bounded(where / name, MAX_ENROLMENT_BYTES) for name in ("certificate.pem", "key.pem", "fleet.json")}
        tree = json.loads(files["fleet.json"])
        return Identity(
            device=_check_certificate(files["certificate.pem"], _load_key(files["key.pem"])),
            key_pem=files["key.pem"],
            certificate_pem=files["certificate.pem"],
            fleet=_fleet(tree, "fleet.json"),
            token_sha256=str(tree.get("token_sha256", "")),
        )
    except FileNotFoundError as error:
        raise NotEnrolledError(str(folder.parent)) from error
    except (OSError, FileTooLargeError, IdentityError, AttributeError, *UNREADABLE) as error:
        raise IdentityBrokenError(str(folder), f"{error}"[:200]) from error


def identity_in_force(folder: Path) -> Identity | None:
    """The identity in `folder`; None where there is none that reads."""
    with contextlib.suppress(IdentityError):
        return load_identity(folder)
    return None


def enrol(folder: Path, enrolment_file: Path, connect: Callable[[Fleet], Enrolment], *, hardware_class: str) -> Identity:
    """Enrol, or finish what was interrupted. Spends the file's token once: a device that was enrolled by this file, or that finds none, is
    left as it is; by any other it is enrolled anew, and keeps its identity until the new one is durable.

    Raises EnrolmentInvalidError, CertificateRefusedError, and what `connect` raises.
    """
    _settle(folder)
    now = identity_in_force(folder)
    if now is not None and not enrolment_file.exists():
        return now
    tree = _read_enrolment(enrolment_file)
    fleet, token_sha256 = _fleet(tree, str(enrolment_file)), hashlib.sha256(tree["token"].encode()).hexdigest()
    if now is not None and now.fleet == fleet and now.token_sha256 in ("", token_sha256):  # "": enrolled before this was written down
        return now
    coming = make_private_folder(_coming(folder))
    key = _ensure_key(coming / "key.pem")
    facts = {"version": ENROLMENT_VERSION, **vars(fleet), "token_sha256": token_sha256}
    write_atomic(coming / "fleet.json", json.dumps(facts).encode())
    device, certificate_pem = connect(fleet).enroll(token=tree["token"], csr_der=_csr(key), hardware_class=hardware_class)
    named = _check_certificate(certificate_pem, key)
    if named != device:
        raise CertificateRefusedError(f"a certificate for {named!r:.80} and the name {device!r:.80}")
    write_atomic(coming / "certificate.pem", certificate_pem)
    _settle(folder)
    return load_identity(folder)


def renew(folder: Path, identity: Identity, enrolment: Enrolment) -> Identity:
    """A new certificate for the same key and name. A crash leaves the old one or the new one."""
    key = _load_key(identity.key_pem)
    csr_der = _csr(key)
    proof = key.sign(csr_der, ec.ECDSA(hashes.SHA256()))
    certificate_pem = enrolment.renew(certificate_pem=identity.certificate_pem, csr_der=csr_der, proof=proof)
    if (named := _check_certificate(certificate_pem, key)) != identity.device:
        raise CertificateRefusedError(f"a certificate for {named!r:.80}")
    write_atomic(_in_force(folder) / "certificate.pem", certificate_pem)
    return load_identity(folder)


def _coming(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.new")


def _in_force(folder: Path) -> Path:
    """Where the identity is: beside its folder as soon as it is whole there."""
    coming = _coming(folder)
    return coming if (coming / "certificate.pem").exists() else folder


def _settle(folder: Path) -> None:
    """Put a new identity that is whole in the place of the old one. A kill in between leaves it to the next enrolment."""
    coming, gone = _coming(folder), folder.with_name(f"{folder.name}.old")
    shutil.rmtree(gone, ignore_errors=True)
    if _in_force(folder) == coming:
        if folder.exists():
            folder.rename(gone)
        coming.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(gone, ignore_errors=True)


def _read_enrolment(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(read_bounded(path, MAX_ENROLMENT_BYTES))
    except FileNotFoundError as error:
        raise EnrolmentInvalidError(str(path), "no such file") from error
    except ValueError as error:
        raise EnrolmentInvalidError(str(path), "not JSON") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("token"), str):
        raise EnrolmentInvalidError(str(path), "no token")
    return tree


def _fleet(tree: dict[str, Any], where: str) -> Fleet:
    if tree.get("version") != ENROLMENT_VERSION:
        raise EnrolmentInvalidError(where, f"version {tree.get('version')!r:.40}")
    names = ("endpoint_enrolment", "endpoint_fleet", "ca_pem", "root")
    missing = [name for name in names if not isinstance(tree.get(name), str)]
    if missing:
        raise EnrolmentInvalidError(where, f"no {', '.join(missing)}")
    return Fleet(**{name: tree[name] for name in names})


def _ensure_key(path: Path) -> ec.EllipticCurvePrivateKey:
    with contextlib.suppress(FileNotFoundError, CertificateRefusedError):
        return _load_key(read_bounded(path, MAX_ENROLMENT_BYTES))
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_atomic(path, pem, mode=0o600)
    return key


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except UNREADABLE as error:
        raise CertificateRefusedError("a device key that does not read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateRefusedError(f"a device key of type {type(key).__name__}")
    return key


def _csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request that names nobody: the orchestrator chooses the name."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def _check_certificate(pem: bytes, key: ec.EllipticCurvePrivateKey) -> str:
    """The device's name in a certificate that is for this key."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        holder, names = certificate.public_key(), certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE as error:
        raise CertificateRefusedError("not a certificate") from error
    if holder != key.public_key():
        raise CertificateRefusedError("a certificate for another key")
    name = str(names[0].value) if names else ""
    if not name.startswith(CN_PREFIX) or len(name) == len(CN_PREFIX):
        raise CertificateRefusedError(f"a certificate named {name!r:.80}")
    return name.removeprefix(CN_PREFIX)

"""How a device gets its identity: one file brings the trust, the key never leaves the device.

The key pair is made here and is durable before the token is spent. Killed in between, the next try sends the same key with the same token,
and the orchestrator answers with the same device again. The certificate is written last: with it the device is enrolled. Renewal proves
the same key.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.errors import DeviceError
from pipeline.files import create_exclusive, make_private_folder, read_bounded, write_atomic

ENROLMENT_VERSION = 1
MAX_ENROLMENT_BYTES = 1 << 20
CN_PREFIX = "device:"
RENEW_BELOW_SHARE = 1 / 3
"""A certificate is renewed when less than this share of its life is left."""


class EnrolmentInvalidError(DeviceError):
    """The enrolment file does not read."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path, self.found = path, found

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; expected an enrolment file of version {ENROLMENT_VERSION}; ask the operator for a new one"


class NotEnrolledError(DeviceError):
    """The device's folder has no identity."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.folder = folder

    def __str__(self) -> str:
        return f"{self.folder}: not enrolled; expected an identity; `kdpipe edge enrol {self.folder} --enrolment FILE`"


class CertificateRefusedError(DeviceError):
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
    """The identity in `folder`. Raises NotEnrolledError."""
    try:
        certificate_pem = read_bounded(folder / "certificate.pem", MAX_ENROLMENT_BYTES)
        key_pem = read_bounded(folder / "key.pem", MAX_ENROLMENT_BYTES)
        tree = json.loads(read_bounded(folder / "fleet.json", MAX_ENROLMENT_BYTES))
    except FileNotFoundError as error:
        raise NotEnrolledError(str(folder.parent)) from error
    device = _check_certificate(certificate_pem, _load_key(key_pem))
    return Identity(device=device, key_pem=key_pem, certificate_pem=certificate_pem, fleet=_fleet(tree, str(folder / "fleet.json")))


def enrol(folder: Path, enrolment_file: Path, connect: Callable[[Fleet], Enrolment], *, hardware_class: str) -> Identity:
    """Enrol, or finish what was interrupted; an enrolled device is left as it is. Spends the file's token once.

    Raises EnrolmentInvalidError, CertificateRefusedError, and what `connect` raises.
    """
    if (folder / "certificate.pem").exists():
        return load_identity(folder)
    tree = _read_enrolment(enrolment_file)
    fleet = _fleet(tree, str(enrolment_file))
    make_private_folder(folder)
    key = _ensure_key(folder / "key.pem")
    write_atomic(folder / "fleet.json", json.dumps({"version": ENROLMENT_VERSION, **vars(fleet)}).encode())
    device, certificate_pem = connect(fleet).enroll(token=tree["token"], csr_der=_csr(key), hardware_class=hardware_class)
    named = _check_certificate(certificate_pem, key)
    if named != device:
        raise CertificateRefusedError(f"a certificate for {named!r:.80} and the name {device!r:.80}")
    write_atomic(folder / "certificate.pem", certificate_pem)
    return load_identity(folder)


def renew(folder: Path, identity: Identity, enrolment: Enrolment) -> Identity:
    """A new certificate for the same key and name. A crash leaves the old one or the new one."""
    key = _load_key(identity.key_pem)
    csr_der = _csr(key)
    proof = key.sign(csr_der, ec.ECDSA(hashes.SHA256()))
    certificate_pem = enrolment.renew(certificate_pem=identity.certificate_pem, csr_der=csr_der, proof=proof)
    if (named := _check_certificate(certificate_pem, key)) != identity.device:
        raise CertificateRefusedError(f"a certificate for {named!r:.80}")
    write_atomic(folder / "certificate.pem", certificate_pem)
    return load_identity(folder)


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
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        create_exclusive(path, pem, mode=0o600)
    return _load_key(read_bounded(path, MAX_ENROLMENT_BYTES))


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
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
    except ValueError as error:
        raise CertificateRefusedError("not a certificate") from error
    if certificate.public_key() != key.public_key():
        raise CertificateRefusedError("a certificate for another key")
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else ""
    if not name.startswith(CN_PREFIX) or len(name) == len(CN_PREFIX):
        raise CertificateRefusedError(f"a certificate named {name!r:.80}")
    return name.removeprefix(CN_PREFIX)

"""The fleet's certificates: one CA, the server, operators, and a certificate per device.

Who it is for is in the common name (`device:ID`, `operator:NAME`), a device's population or an operator's role in the organisational unit;
nothing else of a caller is believed. `ensure_pki` makes what is missing and never replaces a CA; a private key lies in one file with its
certificate, so that a crash never leaves a pair that does not fit. Revocation is the roster's, per call; tokens are `enrolment`'s.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.errors import FleetError
from pipeline.files import create_exclusive, make_private_folder, read_bounded, write_atomic
from workers.orchestrator.access import Role, role_named

CA_VALID = timedelta(days=3650)
SERVER_VALID = timedelta(days=398)
OPERATOR_VALID = timedelta(days=398)
DEVICE_VALID = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
"""How long before their end the orchestrator's own certificates are renewed."""
RENEW_GRACE = timedelta(days=30)
"""How long after its end a device's certificate can still be renewed."""
BACKDATED = timedelta(hours=1)
"""Certificates begin a little in the past, for devices whose clock is slow."""
MAX_PEM_BYTES = 65_536
MAX_CSR_BYTES = 4_096
LOCAL = "local"
"""The operator that an orchestrator's own folder makes its reader: an admin."""
CA_KEY_FILE, SERVER_FILE = "ca-private.pem", "server.pem"

DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
OPERATOR_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_NAME = re.compile(r"(device|operator):([a-z0-9][a-z0-9_-]{0,62})")
_CURVES = (ec.SECP256R1, ec.SECP384R1)


class CertificateRefusedError(FleetError):
    """A certificate or a signing request is malformed, foreign, expired, or not for what it is used for."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        return f"certificate: {self.found}; expected {self.expected}"


class PkiBrokenError(FleetError):
    """The fleet's own CA or certificates do not read."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path, self.found = path, found

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; expected a private key and its certificate; restore the file from a backup"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a certificate says the caller is."""

    kind: str
    """"device" or "operator"."""
    name: str
    population: str
    """Of a device."""
    role: Role | None
    """Of an operator; None where the certificate names none that we know."""
    not_after: datetime
    not_after_s: float
    key_hash: str


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A private key and its certificate, PEM."""

    key_pem: bytes
    certificate_pem: bytes


@dataclass(frozen=True, kw_only=True)
class Pki:
    """What the server needs. The CA's key stays in this process."""

    ca_pem: bytes
    server: Credentials
    ca_key: ec.EllipticCurvePrivateKey
    ca: x509.Certificate


def ensure_pki(folder: Path, *, host: str, now: datetime, names: Sequence[str] = (), ca_folder: Path | None = None) -> Pki:
    """CA, server and operator certificates under `folder`, made where they are missing. Safe to call twice, and by two at once.

    `ca_folder` holds the CA's private key where replicas share one. The server's certificate is renewed when it ends soon or does not
    name `host` and `names`. Raises PkiBrokenError.
    """
    make_private_folder(folder)
    ca_path = (folder if ca_folder is None else make_private_folder(ca_folder)) / CA_KEY_FILE
    if not ca_path.exists():
        create_exclusive(ca_path, _make_ca(now))
    ca_credentials = read_pair(ca_path)
    ca, ca_key = _certificate(ca_credentials.certificate_pem), _private_key(ca_path, ca_credentials.key_pem)
    if not (folder / "ca.pem").exists():
        write_atomic(folder / "ca.pem", ca_credentials.certificate_pem, mode=0o644)
    elif read_bounded(folder / "ca.pem", MAX_PEM_BYTES) != ca_credentials.certificate_pem:
        raise PkiBrokenError(str(folder / "ca.pem"), f"another CA than that of {ca_path}")
    return renew_own(folder, ca_credentials.certificate_pem, ca, ca_key, host=host, names=names, now=now)


def renew_own(
    folder: Path, ca_pem: bytes, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, *, host: str, names: Sequence[str], now: datetime
) -> Pki:
    """The server's and the local operator's certificates, renewed where they end within `RENEW_BEFORE`: at a start, and while it runs."""
    server_path, operator_path = folder / SERVER_FILE, folder / "operator.pem"
    listed = _server_names([host, *names])
    if not _is_good(server_path, ca, now, names=listed):
        write_atomic(server_path, _issue_pair("kdpipe orchestrator", ca, ca_key, now=now, valid=SERVER_VALID, server_names=listed))
    if not _is_good(operator_path, ca, now, role=Role.ADMIN):
        write_atomic(
            operator_path, _issue_pair(f"operator:{LOCAL}", ca, ca_key, now=now, valid=OPERATOR_VALID, unit=Role.ADMIN.name.lower())
        )
    return Pki(ca_pem=ca_pem, server=read_pair(server_path), ca_key=ca_key, ca=ca)


def issue_operator(ca_path: Path, *, name: str, role: Role, now: datetime, valid: timedelta) -> tuple[bytes, Credentials]:
    """The CA's certificate, and a new operator's key and certificate. Raises PkiBrokenError, CertificateRefusedError."""
    if _NAME.fullmatch(f"operator:{name}") is None or name == LOCAL:
        raise CertificateRefusedError(f"an operator named {name!r:.80}", f"a-z, 0-9, `_`, `-`, at most 63, and not {LOCAL!r}")
    try:
        own = read_pair(ca_path)
    except FileNotFoundError as error:
        raise PkiBrokenError(str(ca_path), "no such file") from error
    ca, ca_key = _certificate(own.certificate_pem), _private_key(ca_path, own.key_pem)
    return own.certificate_pem, split_pair(
        _issue_pair(f"operator:{name}", ca, ca_key, now=now, valid=valid, unit=role.name.lower()), ca_path
    )


def operator_credentials(folder: Path) -> tuple[bytes, Credentials]:
    """The CA's certificate and the operator's credentials, as `ensure_pki` left them. Raises PkiBrokenError."""
    try:
        return read_bounded(folder / "ca.pem", MAX_PEM_BYTES), read_pair(folder / "operator.pem")
    except FileNotFoundError as error:
        raise PkiBrokenError(str(error.filename), "no such file") from error


def issue_device(pki: Pki, request: x509.CertificateSigningRequest, *, device_id: str, population: str, now: datetime) -> bytes:
    """A device's certificate, PEM. Only the request's public key is used; its names are not believed."""
    return _issue(
        f"device:{device_id}", request.public_key(), pki.ca, pki.ca_key, now=now, valid=DEVICE_VALID, unit=population
    ).public_bytes(serialization.Encoding.PEM)


def parse_request(csr_der: bytes) -> x509.CertificateSigningRequest:
    """A signing request whose sender holds the key. Raises CertificateRefusedError."""
    if len(csr_der) > MAX_CSR_BYTES:
        raise CertificateRefusedError(f"a request of {len(csr_der)} bytes", f"at most {MAX_CSR_BYTES}")
    try:
        request = x509.load_der_x509_csr(csr_der)
        key, is_proved = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateRefusedError("a signing request that does not parse", "a DER certificate signing request") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise CertificateRefusedError("a signing request for another kind of key", "an elliptic-curve key, P-256 or P-384")
    if not is_proved:
        raise CertificateRefusedError("a signing request that its key did not sign", "a signature by the same key")
    return request


def key_hash(key: object) -> str:
    """Hex SHA-256 of a public key's DER form."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateRefusedError(f"a {type(key).__name__}", "an elliptic-curve key")
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


@lru_cache(maxsize=16_384)
def identify(certificate_pem: bytes) -> Identity:
    """Who a certificate is for; the TLS handshake, or `check_renewal`, has verified that our CA signed it.

    Raises CertificateRefusedError.
    """
    certificate = _certificate(certificate_pem)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    match = _NAME.fullmatch(str(names[0].value)) if len(names) == 1 else None
    if match is None:
        raise CertificateRefusedError(f"a name of {[str(name.value)[:80] for name in names]}", "device:ID or operator:NAME")
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    unit, is_device = str(units[0].value) if len(units) == 1 else "", match[1] == "device"
    return Identity(
        kind=match[1],
        name=match[2],
        population=unit if is_device else "",
        role=None if is_device else role_named(unit),
        not_after=certificate.not_valid_after_utc,
        not_after_s=certificate.not_valid_after_utc.timestamp(),
        key_hash=key_hash(certificate.public_key()),
    )


def check_renewal(
    pki: Pki, *, certificate_pem: bytes, csr_der: bytes, proof: bytes, now: datetime
) -> tuple[Identity, x509.CertificateSigningRequest]:
    """That a renewal comes from the holder of a device certificate of ours that did not end too long ago.

    Raises CertificateRefusedError.
    """
    if len(certificate_pem) > MAX_PEM_BYTES or len(proof) > MAX_CSR_BYTES:
        raise CertificateRefusedError("a renewal too large", "one certificate and one signature")
    certificate = _certificate(certificate_pem)
    try:
        certificate.verify_directly_issued_by(pki.ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateRefusedError("one that this CA did not sign", "the device's last certificate") from error
    identity = identify(certificate.public_bytes(serialization.Encoding.PEM))
    if identity.kind != "device":
        raise CertificateRefusedError(f"an {identity.kind}'s", "a device's")
    if now > identity.not_after + RENEW_GRACE:
        raise CertificateRefusedError(
            f"one that ended at {identity.not_after.isoformat()}", f"one not older than {RENEW_GRACE.days} days; enrol anew"
        )
    request = parse_request(csr_der)
    key = certificate.public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(proof, csr_der, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise CertificateRefusedError("a proof that the certificate's key did not make", "its signature of the request") from error
    return identity, request


def _make_ca(now: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kdpipe fleet CA")])
    usage = _key_usage(signs_certificates=True)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + CA_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(key, certificate)


def _issue_pair(
    name: str,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    valid: timedelta,
    unit: str = "",
    server_names: Sequence[x509.GeneralName] = (),
) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return _pair(key, _issue(name, key.public_key(), ca, ca_key, now=now, valid=valid, unit=unit, server_names=server_names))


def _issue(
    name: str,
    key: object,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    valid: timedelta,
    unit: str = "",
    server_names: Sequence[x509.GeneralName] = (),
) -> x509.Certificate:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateRefusedError(f"a {type(key).__name__}", "an elliptic-curve key")
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if unit:
        subject.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(ca.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATED, ca.not_valid_before_utc))
        .not_valid_after(min(now + valid, ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server_names else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
    if server_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(server_names), critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _server_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    for host in hosts:
        try:
            named: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            named = x509.DNSName(host)
        if named not in names:
            names.append(named)
    return names


def _is_good(path: Path, ca: x509.Certificate, now: datetime, *, names: Sequence[x509.GeneralName] = (), role: Role | None = None) -> bool:
    if not path.exists():
        return False
    pem = read_pair(path).certificate_pem
    certificate = _certificate(pem)
    if certificate.issuer != ca.subject or certificate.not_valid_after_utc - now < RENEW_BEFORE:
        return False
    if names:
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return set(names) <= set(listed)
    return identify(pem).role is role


def _pair(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def read_pair(path: Path) -> Credentials:
    """A private key and its certificate from one file. Raises PkiBrokenError, FileNotFoundError."""
    return split_pair(read_bounded(path, MAX_PEM_BYTES), path)


def split_pair(data: bytes, path: Path) -> Credentials:
    begin = data.find(b"-----BEGIN CERTIFICATE-----")
    if begin <= 0:
        raise PkiBrokenError(str(path), "no certificate after a key")
    return Credentials(key_pem=data[:begin], certificate_pem=data[begin:])


def _private_key(path: Path, pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise PkiBrokenError(str(path), "a key that does not read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiBrokenError(str(path), f"a {type(key).__name__}")
    return key


def _certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CertificateRefusedError("one that does not parse", "a PEM certificate") from error


def utc(unix_s: float) -> datetime:
    """Unix time as the aware datetime that certificates and TUF speak of."""
    return datetime.fromtimestamp(unix_s, UTC)

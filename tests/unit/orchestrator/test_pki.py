"""Certificates: who gets one, what it says, and who is refused."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.kit.wire_devices import signing_request
from workers.orchestrator.enrolment_file import write_enrolment
from workers.orchestrator.pki import (
    DEVICE_VALID,
    RENEW_GRACE,
    CertificateRefusedError,
    Pki,
    PkiBrokenError,
    check_renewal,
    ensure_pki,
    identify,
    issue_device,
    operator_credentials,
    parse_request,
)

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(name="pki")
def _pki(tmp_path: Path) -> Pki:
    return ensure_pki(tmp_path / "pki", host="127.0.0.1", now=NOW)


def issued(pki: Pki, key: ec.EllipticCurvePrivateKey, *, now: datetime = NOW) -> bytes:
    return issue_device(pki, parse_request(signing_request(key)), device_id="d-1", population="mail", now=now)


def renewal(
    pki: Pki, key: ec.EllipticCurvePrivateKey, certificate: bytes, *, now: datetime, prover: ec.EllipticCurvePrivateKey | None = None
) -> str:
    csr = signing_request(key)
    proof = (prover or key).sign(csr, ec.ECDSA(hashes.SHA256()))
    return check_renewal(pki, certificate_pem=certificate, csr_der=csr, proof=proof, now=now)[0].name


def test_asking_again_changes_nothing(tmp_path: Path, pki: Pki) -> None:
    again = ensure_pki(tmp_path / "pki", host="127.0.0.1", now=NOW)
    assert (again.ca_pem, again.server) == (pki.ca_pem, pki.server)


def test_two_that_start_at_once_agree_on_one_ca(tmp_path: Path) -> None:
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.append(ensure_pki(tmp_path / "p", host="localhost", now=NOW).ca_pem)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == 1
    ca_pem, operator = operator_credentials(tmp_path / "p")
    x509.load_pem_x509_certificate(operator.certificate_pem).verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem))


def test_private_files_are_the_owners_alone(tmp_path: Path, pki: Pki) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "pki").iterdir()}
    assert modes == {"ca-private.pem": 0o600, "server.pem": 0o600, "operator.pem": 0o600, "ca.pem": 0o644}
    assert (tmp_path / "pki").stat().st_mode & 0o777 == 0o700


def test_a_server_that_moves_to_another_host_gets_a_certificate_for_it_from_the_same_ca(tmp_path: Path, pki: Pki) -> None:
    moved = ensure_pki(tmp_path / "pki", host="fleet.example.org", now=NOW)
    assert moved.ca_pem == pki.ca_pem
    names = (
        x509.load_pem_x509_certificate(moved.server.certificate_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "fleet.example.org"]


def test_certificates_that_end_soon_are_made_anew(tmp_path: Path, pki: Pki) -> None:
    later = ensure_pki(tmp_path / "pki", host="127.0.0.1", now=NOW + timedelta(days=380))
    assert later.server.certificate_pem != pki.server.certificate_pem
    assert later.ca_pem == pki.ca_pem


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_broken_ca_is_an_error_and_never_replaced(tmp_path: Path, pki: Pki, content: bytes) -> None:
    path = tmp_path / "pki" / "ca-private.pem"
    path.write_bytes(content)
    with pytest.raises(PkiBrokenError, match="restore"):
        ensure_pki(tmp_path / "pki", host="127.0.0.1", now=NOW)
    assert path.read_bytes() == content


def test_a_device_certificate_says_what_the_server_decided_and_not_what_was_asked_for(pki: Pki) -> None:
    request = parse_request(signing_request(ec.generate_private_key(ec.SECP256R1()), name="operator:mallory"))
    certificate = issue_device(pki, request, device_id="d-1", population="mail", now=NOW)
    identity = identify(certificate)
    assert (identity.kind, identity.name, identity.population) == ("device", "d-1", "mail")
    usage = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not usage.ca


def test_a_signing_request_that_its_key_did_not_sign_is_refused() -> None:
    csr = bytearray(signing_request(ec.generate_private_key(ec.SECP256R1())))
    csr[-1] ^= 1
    with pytest.raises(CertificateRefusedError, match="signing request"):
        parse_request(bytes(csr))


@pytest.mark.parametrize("csr", [b"", b"\x30\x00", b"x" * 5000])
def test_a_request_that_does_not_parse_is_refused(csr: bytes) -> None:
    with pytest.raises(CertificateRefusedError):
        parse_request(csr)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP192R1())])
def test_another_kind_of_key_is_refused(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    with pytest.raises(CertificateRefusedError, match="elliptic-curve"):
        parse_request(csr.public_bytes(serialization.Encoding.DER))


def test_an_ended_certificate_is_renewed_within_its_grace_and_not_after(pki: Pki) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issued(pki, key)
    assert renewal(pki, key, certificate, now=NOW + DEVICE_VALID + RENEW_GRACE - timedelta(hours=1)) == "d-1"
    with pytest.raises(CertificateRefusedError, match="enrol anew"):
        renewal(pki, key, certificate, now=NOW + DEVICE_VALID + RENEW_GRACE + timedelta(hours=1))


def test_renewal_with_another_keys_proof_is_refused(pki: Pki) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(CertificateRefusedError, match="did not make"):
        renewal(pki, key, issued(pki, key), now=NOW, prover=ec.generate_private_key(ec.SECP256R1()))


def test_renewal_of_a_certificate_of_another_ca_is_refused(tmp_path: Path, pki: Pki) -> None:
    other = ensure_pki(tmp_path / "other", host="127.0.0.1", now=NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(CertificateRefusedError, match="did not sign"):
        renewal(pki, key, issued(other, key), now=NOW)


def test_an_operators_certificate_is_not_renewed_over_the_device_port(tmp_path: Path, pki: Pki) -> None:
    _, operator = operator_credentials(tmp_path / "pki")
    key = serialization.load_pem_private_key(operator.key_pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    with pytest.raises(CertificateRefusedError, match="an operator's"):
        renewal(pki, key, operator.certificate_pem, now=NOW)


def test_the_servers_own_certificate_identifies_nobody(pki: Pki) -> None:
    with pytest.raises(CertificateRefusedError, match="device:ID or operator:NAME"):
        identify(pki.server.certificate_pem)


def test_an_enrolment_file_is_the_owners_alone(tmp_path: Path, pki: Pki) -> None:
    path = tmp_path / "device.json"
    write_enrolment(path, endpoint_enrolment="h:1", endpoint_fleet="h:2", ca_pem=pki.ca_pem, root=b"{}", token="t")
    assert path.stat().st_mode & 0o777 == 0o600

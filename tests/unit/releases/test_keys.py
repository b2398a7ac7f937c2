"""Private keys at rest, in an environment variable, and behind a URI."""

import json
import pickle
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from securesystemslib.signer import CryptoSigner, Signer

from pipeline.releases import sealing
from pipeline.releases.keys import (
    KeyLockedError,
    KeyMissingError,
    KeyUnsafeError,
    KeyUnusableError,
    Unlock,
    ensure_key,
    keyid_at,
    load_key,
    public_key,
    reference_to,
    variables_of,
)
from pipeline.releases.sealing import PassphraseWrongError, SealBrokenError, is_sealed, seal, unseal
from workers.driver.unlocking import handed_to, take

RIGHT = Unlock(environment={"KDPIPE_RELEASE_PASSPHRASE": "correct horse"})
WRONG = Unlock(environment={"KDPIPE_RELEASE_PASSPHRASE": "battery staple"})


@pytest.fixture(autouse=True)
def _cheap_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_COST", 16)


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """Where the release key lies."""
    return tmp_path / "keys" / "release" / "release.pem"


def public_pem(signer: CryptoSigner) -> bytes:
    private = serialization.load_pem_private_key(signer.private_bytes, None)
    return private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def same(one: Signer, other: Signer) -> bool:
    return one.public_key == other.public_key


def test_a_key_made_with_a_passphrase_is_sealed_and_says_which_it_is(pem: Path) -> None:
    key = ensure_key(pem, RIGHT)
    assert is_sealed(pem.read_bytes())
    assert b"PRIVATE KEY" not in pem.read_bytes()
    assert keyid_at(pem) == (key.public_key.keyid, "sealed")
    assert same(load_key(pem, RIGHT), key)


def test_a_wrong_passphrase_and_none_are_told_with_the_variable_to_set(pem: Path) -> None:
    ensure_key(pem, RIGHT)
    with pytest.raises(KeyLockedError, match=r"does not open it.*KDPIPE_RELEASE_PASSPHRASE"):
        load_key(pem, WRONG)
    with pytest.raises(KeyLockedError, match=r"none was given.*KDPIPE_RELEASE_PASSPHRASE"):
        load_key(pem)


def test_one_owners_passphrase_does_not_open_anothers_key(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "online" / "snapshot.pem"
    ensure_key(key, Unlock(environment={"KDPIPE_ONLINE_PASSPHRASE": "correct horse"}))
    with pytest.raises(KeyLockedError):
        load_key(key, RIGHT)


def test_a_passphrase_may_lie_in_a_file(pem: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("correct horse\n")
    ensure_key(pem, RIGHT)
    load_key(pem, Unlock(environment={"KDPIPE_RELEASE_PASSPHRASE_FILE": str(tmp_path / "secret")}))


def test_a_seal_whose_head_or_body_was_changed_does_not_open() -> None:
    sealed = seal(b"secret", b"x", keyid="ab" * 32)
    assert unseal(sealed, b"x") == b"secret"
    with pytest.raises(PassphraseWrongError):
        unseal(sealed.replace(b"Key-Id: ab", b"Key-Id: cd"), b"x")
    for broken in (sealed.replace(b"Version: 1", b"Version: 2"), sealed[:120], sealed.replace(b"Version: 1\n", b"")):
        with pytest.raises(SealBrokenError):
            unseal(broken, b"x")


def test_a_key_that_openssl_encrypted_is_read(pem: Path) -> None:
    pem.parent.mkdir(parents=True)
    signer = CryptoSigner.generate_ed25519()
    command = ["openssl", "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:correct horse"]
    pem.write_bytes(subprocess.run(command, input=signer.private_bytes, capture_output=True, check=True).stdout)
    pem.chmod(0o600)
    assert keyid_at(pem) == ("", "under a passphrase")
    assert same(load_key(pem, RIGHT), signer)
    for unlock in (WRONG, Unlock()):
        with pytest.raises(KeyLockedError):
            load_key(pem, unlock)


def test_a_key_in_an_environment_variable_is_used_and_another_one_there_is_refused(pem: Path) -> None:
    signer, other = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    unlock = Unlock(environment={"MY_KEY": signer.private_bytes.decode()})
    pem.parent.mkdir(parents=True)
    pem.with_suffix(".uri").write_bytes(reference_to("env:MY_KEY", None, unlock, owner="release"))
    assert same(ensure_key(pem, unlock), signer)
    assert not pem.exists()
    assert keyid_at(pem) == (signer.public_key.keyid, "env:MY_KEY")
    with pytest.raises(KeyUnusableError, match="another key"):
        load_key(pem, Unlock(environment={"MY_KEY": other.private_bytes.decode()}))
    with pytest.raises(KeyUnusableError, match="no such variable"):
        load_key(pem)


def test_a_key_behind_a_uri_of_securesystemslib_signs(pem: Path, tmp_path: Path) -> None:
    """`file2:` is its simplest scheme; a KMS goes the same way."""
    signer = CryptoSigner.generate_ed25519()
    (tmp_path / "elsewhere").write_bytes(signer.private_bytes)
    pem.parent.mkdir(parents=True)
    public = public_key(public_pem(signer), "public.pem")
    pem.with_suffix(".uri").write_bytes(reference_to(f"file2:{tmp_path / 'elsewhere'}", public, Unlock(), owner="release"))
    found = load_key(pem)
    public.verify_signature(found.sign(b"data"), b"data")


@pytest.mark.parametrize("uri", ["file2:/nowhere", "nosuch:thing", "gcpkms:projects/x", "awskms:x"])
def test_a_uri_that_does_not_work_from_here_is_one_line(pem: Path, uri: str) -> None:
    pem.parent.mkdir(parents=True)
    public = CryptoSigner.generate_ed25519().public_key
    pem.with_suffix(".uri").write_bytes(reference_to(uri, public, Unlock(), owner="release"))
    with pytest.raises(KeyUnusableError, match=uri.partition(":")[0]) as refused:
        load_key(pem)
    assert "\n" not in str(refused.value)
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


def test_a_reference_of_another_version_is_refused(pem: Path) -> None:
    pem.parent.mkdir(parents=True)
    good = json.loads(reference_to("file2:/x", CryptoSigner.generate_ed25519().public_key, Unlock(), owner="release"))
    bad_ones: list[object] = [{**good, "version": 2}, {**good, "key": {}}, {**good, "uri": 5}, []]
    for bad in bad_ones:
        pem.with_suffix(".uri").write_text(json.dumps(bad))
        with pytest.raises(KeyUnusableError):
            load_key(pem)


def test_a_public_key_that_is_none_is_refused() -> None:
    with pytest.raises(KeyUnusableError, match=r"public\.pem"):
        public_key(b"nothing", "public.pem")
    with pytest.raises(KeyUnusableError, match="no public key"):
        reference_to("gcpkms:x", None, Unlock(), owner="release")


def test_no_key_and_no_ed25519_key_are_told_apart(pem: Path) -> None:
    with pytest.raises(KeyMissingError):
        keyid_at(pem)
    pem.parent.mkdir(parents=True)
    pem.write_bytes(CryptoSigner.generate_ecdsa().private_bytes)
    pem.chmod(0o600)
    with pytest.raises(KeyUnsafeError, match="Ed25519"):
        load_key(pem)


def test_what_a_run_starts_inherits_no_passphrase_but_the_orchestrator_its_own(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    key = CryptoSigner.generate_ed25519()
    unlock = Unlock(environment={"MY_KEY": key.private_bytes.decode()})
    (tmp_path / "release" / "release.uri").write_bytes(reference_to("env:MY_KEY", None, unlock, owner="release"))
    environment = {
        "KDPIPE_OFFLINE_PASSPHRASE": "a", "KDPIPE_RELEASE_PASSPHRASE_FILE": "b", "KDPIPE_ONLINE_PASSPHRASE": "c",
        "MY_KEY": "d", "PATH": "/bin",
    }  # fmt: skip
    taken = take(environment, tmp_path)
    assert environment == {"PATH": "/bin"}
    assert handed_to(taken, "online", tmp_path) == {"KDPIPE_ONLINE_PASSPHRASE": "c"}
    assert "MY_KEY" in variables_of(tmp_path, "release")
    assert repr(taken) == "Unlock()"


def test_a_sealed_key_is_still_private_to_its_owner(pem: Path) -> None:
    ensure_key(pem, RIGHT)
    assert pem.stat().st_mode & 0o077 == 0
    pem.chmod(0o644)
    with pytest.raises(KeyUnsafeError, match="chmod 600"):
        load_key(pem, RIGHT)

"""New keys for a repository on disk: brings the signers together, lets `pipeline.releases.rotation` decide, writes it all as one.

Nobody else may hold the folder meanwhile: the run's orchestrator has its keys in memory, and would sign on with them. One that has a
folder of its own looks before it signs whether its keys still count (`online`), and nobody changes the repository while the new
metadata is made and written.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Targets

from pipeline.files import read_bounded
from pipeline.releases.journal import KEYS, METADATA, alone_with, commit, finish
from pipeline.releases.keys import (
    OFFLINE,
    ONLINE,
    RELEASE,
    Unlock,
    keyid_at,
    load_reference,
    sealed_pem,
)
from pipeline.releases.published import Published, read_published, read_unsigned
from pipeline.releases.repository import MAX_METADATA_BYTES, MetadataInvalidError, parse_metadata
from pipeline.releases.rotation import Hands, root_key_to_replace, rotate
from workers.driver.folder import Holder, RunFolder
from workers.driver.passphrases import Passphrases
from workers.driver.publishing import orchestrator_kept_out

OWNER = {"root": OFFLINE, "targets": OFFLINE, "release": RELEASE, "snapshot": ONLINE, "timestamp": ONLINE, "assignment": ONLINE}
"""Role -> whose its key is."""


@dataclass(frozen=True, kw_only=True)
class Rekeyed:
    """What a change of keys left."""

    keyids: Mapping[str, str]
    """Role -> id of its new key."""
    files: tuple[Path, ...]
    """Private keys that were made."""
    metadata: tuple[str, ...]
    """Metadata that was signed."""
    mended: str = ""
    """What was wrong with timestamp or snapshot before; empty where they were right."""


@contextlib.contextmanager
def held_still(folder: RunFolder) -> Iterator[None]:
    """Hold a run's folder, and its orchestrator's. Raises FolderBusyError where either lives."""
    with Holder(folder), orchestrator_kept_out(folder):
        yield


def rekey(
    folder: RunFolder,
    roles: Sequence[str],
    *,
    brought: Sequence[Path],
    passphrases: Passphrases,
    now: datetime,
    replace: str = "",
    renew: Sequence[str] = (),
    elsewhere: Mapping[str, bytes] | None = None,
) -> Rekeyed:
    """New keys for `roles`, another term for `renew`. A crash leaves what was, or what `finish` makes of it.

    `brought` are files of offline keys; those still in the folder count too. `elsewhere` are contents of `NAME.uri` files for roles
    whose new key is not to be made here.
    """
    with held_still(folder):
        finish(folder.keys, folder.releases)
        published, _ = _read(folder)
        made = {role: CryptoSigner.generate_ed25519() for role in roles if role not in (elsewhere or {})}
        owners = {OWNER[role] for role in made}
        sealed = {owner: passphrases.of(owner, folder, brought=brought, replaced=roles) for owner in owners}
        new: dict[str, Signer] = {**made, **{role: _reference(role, data, passphrases.unlock) for role, data in (elsewhere or {}).items()}}
        hands = Hands(
            offline=_offline(folder, published, brought, passphrases),
            snapshot=_online(folder, "snapshot", new, passphrases),
            timestamp=_online(folder, "timestamp", new, passphrases),
            new=new,
        )
        files: dict[str, bytes | None] = {}
        gone = {root_key_to_replace(published.root.signed, replace)} if "root" in roles else set()
        gone |= set(published.root.signed.roles["targets"].keyids) if "targets" in roles else set()
        for role, signer in new.items():
            _place(files, role, signer, made.get(role), (elsewhere or {}).get(role), sealed.get(OWNER[role]))
        files |= {f"{KEYS}/{OFFLINE}/{path.name}": None for path in _held(folder) if keyid_at(path)[0] in gone}
        with alone_with(folder.releases):
            published, mended = _read(folder)  # again: a person may have typed passphrases, and others signed meanwhile
            metadata = rotate(published, _signed_releases(folder, published), hands, now=now, replace=replace, renew=renew)
            if "release" in new:
                files[f"{KEYS}/{RELEASE}/releases.json"] = next(data for name, data in metadata.items() if name.endswith(".releases.json"))
            commit(folder.keys, folder.releases, {**files, **metadata})
    return Rekeyed(
        keyids={role: signer.public_key.keyid for role, signer in new.items()},
        files=tuple(folder.keys / name.removeprefix(f"{KEYS}/") for name, data in files.items() if data and name.endswith(".pem")),
        metadata=tuple(name.removeprefix(f"{METADATA}/") for name in metadata),
        mended=mended,
    )


def _read(folder: RunFolder) -> tuple[Published, str]:
    """What is published, also where timestamp or snapshot are not rightly signed, and then what was found."""
    try:
        return read_published(folder.releases), ""
    except MetadataInvalidError as error:
        return read_unsigned(folder.releases), f"{error.name}: {error.found}"


def _reference(role: str, data: bytes, unlock: Unlock) -> Signer:
    return load_reference(data, unlock, where=role, owner=OWNER[role])


def _online(folder: RunFolder, role: str, new: Mapping[str, Signer], passphrases: Passphrases) -> Signer:
    """The key in use; the new one where there is one, since the old may be lost."""
    return new[role] if role in new else passphrases.signer(folder.keys / ONLINE / f"{role}.pem", ONLINE)


def _signed_releases(folder: RunFolder, published: Published) -> Targets:
    """The newest that the release key signed, published or not."""
    try:
        data = read_bounded(folder.keys / RELEASE / "releases.json", MAX_METADATA_BYTES)
    except FileNotFoundError:
        return published.releases.signed
    return parse_metadata(data, Targets, name="releases.json").signed


def _held(folder: RunFolder) -> list[Path]:
    """Offline keys that nobody moved away, each by the name of its PEM file."""
    files = (folder.keys / OFFLINE).glob("*") if (folder.keys / OFFLINE).is_dir() else ()
    return sorted({path.with_suffix(".pem") for path in files if path.suffix in (".pem", ".uri")})


def _offline(folder: RunFolder, published: Published, brought: Sequence[Path], passphrases: Passphrases) -> list[Signer]:
    """Signers of root and targets keys, those brought first; what neither role lists is left out."""
    roles = published.root.signed.roles
    listed = {*roles["root"].keyids, *roles["targets"].keyids}
    signers: dict[str, Signer] = {}
    for path in [*brought, *_held(folder)]:
        keyid, _ = keyid_at(path)
        if keyid and (keyid not in listed or keyid in signers):
            continue
        signer = passphrases.signer(path, OFFLINE)
        signers[signer.public_key.keyid] = signer
    return list(signers.values())


def _place(
    files: dict[str, bytes | None],
    role: str,
    signer: Signer,
    made: CryptoSigner | None,
    reference: bytes | None,
    passphrase: bytes | None,
) -> None:
    """Where a new key goes, and what it takes the place of."""
    owner = OWNER[role]
    name = f"{role}-{signer.public_key.keyid[:8]}" if owner == OFFLINE else role
    place = f"{KEYS}/{owner}/{name}"
    if made is None:
        files |= {f"{place}.uri": reference, f"{place}.pem": None}
        return
    files |= {f"{place}.pem": sealed_pem(made, passphrase), f"{place}.uri": None}

"""Who may sign what in a run's repository, and where the private keys are; read without opening any."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.releases.assignment import ASSIGNMENT_VALID
from pipeline.releases.keys import OWNERS, keyid_at
from pipeline.releases.published import SOON, read_published
from pipeline.releases.repository import ROLE_RELEASES
from pipeline.releases.rotation import ROOT_ROLES, TARGETS_ROLES
from workers.driver.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class RoleKey:
    """One key of a role. `where` is empty where the private key is not here."""

    keyid: str
    where: str = ""
    kept: str = ""


@dataclass(frozen=True, kw_only=True)
class Role:
    """One role. `expires` is that of the metadata it signs; for assignments, of targets metadata, which says that their key counts."""

    name: str
    threshold: int
    version: int
    expires: datetime
    keys: tuple[RoleKey, ...]
    each_s: int | None = None
    """How long each of the many things that it signs holds; None for a role that signs metadata."""


def roles_of(folder: RunFolder) -> list[Role]:
    """Every role of the published repository. Raises MetadataInvalidError."""
    published, held = read_published(folder.releases), _held(folder)
    root, targets = published.root.signed, published.targets.signed
    signed = {"root": root, "targets": targets, "release": published.releases.signed, "assignment": targets}
    signed |= {"snapshot": published.snapshot.signed, "timestamp": published.timestamp.signed}
    assert targets.delegations is not None
    delegated = targets.delegations.roles or {}
    listed = {**{name: root.roles[name] for name in ROOT_ROLES}, **{name: delegated[role] for name, role in TARGETS_ROLES.items()}}
    return [
        Role(
            name=name,
            threshold=role.threshold,
            version=signed[name].version,
            expires=signed[name].expires,
            keys=tuple(held.get(keyid, RoleKey(keyid=keyid)) for keyid in role.keyids),
            each_s=int(ASSIGNMENT_VALID.total_seconds()) if name == "assignment" else None,
        )
        for name, role in listed.items()
    ]


def warnings_of(roles: Sequence[Role], *, now: datetime) -> list[str]:
    """What somebody should do soon, a line each, with the command."""
    found = ends_of(roles, now=now)
    for role in roles:
        if role.name in ("snapshot", "timestamp") and role.expires <= now:
            found.append(f"{role.name} metadata expired: no orchestrator has signed it since; the next `kdpipe run` does")
        still_here = [key.where for key in role.keys if key.where]
        if role.name == "root" and len(still_here) >= role.threshold:
            found.append(f"{len(still_here)} root keys lie here: whoever takes them owns the fleet; move {', '.join(still_here)} away")
    return found


def ends_of(roles: Sequence[Role], *, now: datetime) -> list[str]:
    """What ends soon, or has ended, and stops installs then; with the command that renews it."""
    found = []
    for role in roles:
        left = role.expires - now
        when = "expired" if left <= timedelta(0) else f"expires in {left.days} days"
        if role.name in ("root", "targets") and left < SOON:
            found.append(f"{role.name} metadata {when}: then no device installs anything; `kdpipe keys renew DIR {role.name} --key FILE`")
        if role.name == "release" and left < SOON:
            found.append(f"{ROLE_RELEASES} metadata {when}; `kdpipe run --continuous` renews it")
    return found


def _held(folder: RunFolder) -> dict[str, RoleKey]:
    """Private keys in the folder, and references to those elsewhere, by id."""
    found = {}
    for owner in OWNERS:
        place = folder.keys / owner
        files = [path for path in place.iterdir() if path.suffix in (".pem", ".uri")] if place.is_dir() else []
        for path in sorted(files):
            keyid, kept = keyid_at(path.with_suffix(".pem"))
            if keyid:
                found[keyid] = RoleKey(keyid=keyid, where=str(path.relative_to(folder.root)), kept=kept)
    return found

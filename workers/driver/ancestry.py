"""A release and those it grew from, each with its teacher, labels, config and the gate's evidence.

Bundles say it themselves, under their digests; where one is not here any more, the run's lineage says what it can.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.releases.bundle import open_bundle
from pipeline.releases.origin import Origin
from workers.driver.catalogue import Release, bundle_of, releases_of
from workers.driver.folder import RunFolder
from workers.driver.releasing import lineage_of


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """One version. `origin` is None where neither its bundle is here nor it says so (bundles of version 1)."""

    path: str
    digest: str
    teacher: str
    parent: str | None
    gate_uses: int
    """How often the gate's samples had decided about this student when it was let through."""
    origin: Origin | None


def ancestry(folder: RunFolder, release: Release) -> Iterator[Ancestor]:
    """The release first, then its parent, and so on, until the first or one of which nothing is known."""
    known = {other.digest: other for other in releases_of(folder)}
    entries = lineage_of(folder).entries()
    digest: str | None = release.digest
    seen = set[str]()
    while digest is not None and digest not in seen:
        seen.add(digest)
        bundle = bundle_of(folder, digest)
        manifest = open_bundle(bundle).manifest if bundle is not None else None
        places = [place for place, entry in enumerate(entries) if entry.what == "released" and entry.digest == digest]
        entry = entries[places[-1]] if places else None
        if manifest is None and entry is None:
            return
        origin = manifest.origin if manifest is not None else None
        student = manifest.student if manifest is not None else entry.student if entry is not None else ""
        parent = origin.parent if origin is not None else entry.parent if entry is not None else None
        before = entries[: places[-1]] if places else ()
        yield Ancestor(
            path=known[digest].path if digest in known else (entry.target or "" if entry is not None else ""),
            digest=digest,
            teacher=manifest.teacher if manifest is not None else entry.teacher if entry is not None else "",
            parent=parent,
            gate_uses=sum(past.what == "judged" and past.student == student for past in before),
            origin=origin,
        )
        digest = parent

"""What lies in a label store and no reader can need. Who deletes it must have fenced all other writers.

attempts   objects beside the shards that no commit or repair names: lost in a crash, fenced, or overtaken
dropped    shards that the retention policy let go of
replaced   bad shards that were labelled again, and what was there before rows were forgotten: their rows are in the repair
log        records, segments and manifests that a newer manifest made superfluous more than a grace ago
unfinished on local disk, files that a crash left half written
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.labels.entries import record_key
from pipeline.labels.manifest import GRACE_S, MANIFESTS, SEGMENTS, Manifest, newest_manifest
from pipeline.labels.shard import SHARDS
from pipeline.labels.state import LogState
from pipeline.labels.store import LocalStore, Store

LOG = "log/"
_RECORD = re.compile(r"log/\d{20}\.json")


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Key -> bytes, by kind."""

    attempts: Mapping[str, int]
    dropped: Mapping[str, int]
    replaced: Mapping[str, int]
    log: Mapping[str, int]
    unfinished: Mapping[str, int]
    """By path below the store's folder: they never became objects."""

    @property
    def objects(self) -> int:
        return sum(map(len, vars(self).values()))

    @property
    def bytes(self) -> int:
        return sum(sum(kind.values()) for kind in vars(self).values())

    def delete_from(self, store: Store) -> None:
        """Delete it. After a crash, look again and delete what is left."""
        store.delete(*self.attempts, *self.dropped, *self.replaced, *self.log)
        if isinstance(store, LocalStore):
            store.delete_unfinished(self.unfinished)


def garbage(store: Store, state: LogState, *, now_unix_s: float) -> Garbage:
    """What could go, as the log was at `state`: an attempt that is under way now looks like one that was lost."""
    there = set(store.list(SHARDS))
    gone = state.commits[state.swept_commits : state.dropped_commits]
    dropped = {key for commit in gone for key in (commit.shard.key, state.shard_of(commit).key)} & there
    needed = {state.shard_of(commit).key for commit in state.kept_commits()}
    replaced = {commit.shard.key for commit in state.kept_commits() if commit.shard.key in state.repairs} & there - needed
    return Garbage(
        attempts=_sizes(store, there - needed - dropped - replaced),
        dropped=_sizes(store, dropped),
        replaced=_sizes(store, replaced),
        log=_sizes(store, _superfluous(store, newest_manifest(store), now_unix_s)),
        unfinished=store.unfinished(now_unix_s - GRACE_S) if isinstance(store, LocalStore) else {},
    )


def _superfluous(store: Store, manifest: Manifest | None, now_unix_s: float) -> set[str]:
    """Never a segment that ends after the newest manifest: a writer that sleeps may be about to name it in a newer one."""
    if manifest is None:
        return set()
    young = [retired for retired in manifest.retired if now_unix_s - retired.at_unix_s < GRACE_S]
    needed = {manifest.key, *(ref.key for ref in manifest.segments), *(key for retired in young for key in retired.keys)}
    first_seq = min((retired.first_seq for retired in young), default=manifest.state.next_seq)
    records = {key for key in store.list(LOG) if key < record_key(first_seq) and _RECORD.fullmatch(key)}
    segments = {key for key in store.list(SEGMENTS) if int(key.split("-")[1]) <= manifest.state.next_seq}
    return records | (segments | {key for key in store.list(MANIFESTS) if key < manifest.key}) - needed


def _sizes(store: Store, keys: Iterable[str]) -> dict[str, int]:
    sizes = {key: store.size(key) for key in sorted(keys)}
    return {key: size for key, size in sizes.items() if size is not None}

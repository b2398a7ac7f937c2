"""What a device believes: TUF metadata, through python-tuf's client, at a time that cannot be turned back.

Refresh and look-up only; bundles are downloaded elsewhere. Metadata is verified before it is stored, each file has a bound, and
the first root comes from the enrolment file. Trusted time = max(wall clock, newest verified signed time, build time); a signed time
counts until a newer root comes, so that a stolen online key that signs a far future blocks installs no longer than that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from securesystemslib.signer import Key
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Root, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from pipeline.errors import DeviceError
from pipeline.files import FileTooLargeError, make_private_folder, read_bounded, sync_folder
from pipeline.releases.assignment import assignment_keys
from pipeline.releases.repository import MAX_METADATA_BYTES, MetadataInvalidError, issued_at, parse_metadata
from pipeline.releases.target import ReleaseTarget
from workers.edge import BUILD_UNIX_S
from workers.edge.fleet_client import FleetRefusedError

CLOCK_TOLERANCE_S = 300.0
UNREADABLE = (OSError, FileTooLargeError, MetadataInvalidError)
"""What rot on the flash makes of stored metadata; the next refresh stores it anew."""
_BASE = "kdpipe://fleet/"


class MetadataRefusedError(DeviceError):
    """Signed metadata did not verify: forged, rolled back, mixed, too large or expired. The device keeps what it runs."""

    def __init__(self, found: str, by_clock: bool) -> None:
        super().__init__(found, by_clock)
        self.found, self.by_clock = found, by_clock
        """`by_clock`: it has expired by this device's time, and nothing says that this time is right."""

    def __str__(self) -> str:
        return f"release metadata: {self.found}; expected metadata that verifies and is in force; the device keeps what it runs"


class MetadataUnreachableError(DeviceError):
    """Metadata could not be fetched."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return f"release metadata: {self.found}; expected the orchestrator to answer; the device goes on and tries again"


@dataclass(frozen=True, kw_only=True)
class TrustedTime:
    """A lower bound of the real time, and whether the wall clock contradicts it."""

    wall_unix_s: float
    signed_unix_s: float

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(max(self.wall_unix_s, self.signed_unix_s, BUILD_UNIX_S), UTC)

    @property
    def wall_is_behind(self) -> bool:
        return self.wall_unix_s < max(self.signed_unix_s, BUILD_UNIX_S) - CLOCK_TOLERANCE_S


class Trust:
    """Verified metadata in a folder. `root()` is what the enrolment file brought; `fetch(name)` a metadata file's bytes, unverified."""

    def __init__(self, folder: Path, *, root: Callable[[], bytes], fetch: Callable[[str], bytes]) -> None:
        self._folder, self._root, self._fetcher = folder, root, _Fetcher(fetch)
        self._updater: Updater | None = None
        self.root_version = self._read_root_version()
        """Of the newest root that was verified, also by an earlier process; 0 before the first refresh."""

    def refresh(self, now: datetime) -> int:
        """Fetch and verify top-level metadata at trusted time `now`; returns the newest signed time in Unix seconds, 0 if unknown.

        Raises MetadataRefusedError, MetadataUnreachableError.
        """
        self._updater = None
        make_private_folder(self._folder)
        try:
            updater = Updater(str(self._folder), _BASE, fetcher=self._fetcher, config=UpdaterConfig(), bootstrap=self._root())
            # The client has no argument for the time; a test proves that this one is what it checks expiry against.
            updater._trusted_set.reference_time = now
            updater.refresh()
        except ExpiredMetadataError as error:
            raise _expired(error, by_clock=not self._is_now(now)) from error
        except (RepositoryError, DownloadError) as error:
            raise _translate(error) from error
        finally:
            sync_folder(self._folder)
            self.root_version = self._read_root_version()
        self._updater = updater
        timestamp = parse_metadata(read_bounded(self._folder / "timestamp.json", MAX_METADATA_BYTES), Timestamp, name="timestamp").signed
        issued = issued_at(timestamp)
        return int(issued.timestamp()) if issued is not None else 0

    def keys(self) -> dict[str, Key]:
        """Keys that may sign assignments, from metadata verified at the last refresh, also an earlier process's; empty before."""
        try:
            return assignment_keys(read_bounded(self._folder / "targets.json", MAX_METADATA_BYTES))
        except UNREADABLE:
            return {}

    def release(self, path: str) -> ReleaseTarget | None:
        """What the release key says about a target, None if nothing. Once after each `refresh`. Raises the same, and TargetInvalidError."""
        updater, self._updater = self._updater, None
        if updater is None:
            raise MetadataUnreachableError("not refreshed")
        try:
            target = updater.get_targetinfo(path)
        except ExpiredMetadataError as error:
            raise _expired(error, by_clock=False) from error  # the timestamp was in force a moment ago
        except (RepositoryError, DownloadError) as error:
            raise _translate(error) from error
        return ReleaseTarget.from_tuf(target) if target is not None else None

    def _is_now(self, now: datetime) -> bool:
        """Whether the fleet's timestamp, which is signed anew all the time, is in force at `now`: then the clock is not what is wrong."""
        try:
            root = parse_metadata(read_bounded(self._folder / "root.json", MAX_METADATA_BYTES), Root, name="root")
            data = self._fetcher.download_bytes(f"{_BASE}timestamp.json", MAX_METADATA_BYTES)
            timestamp = parse_metadata(data, Timestamp, name="timestamp")
            root.signed.verify_delegate("timestamp", timestamp.signed_bytes, timestamp.signatures)
        except (*UNREADABLE, RepositoryError, DownloadError):
            return False
        issued = issued_at(timestamp.signed)
        return issued is not None and issued.timestamp() <= now.timestamp() + CLOCK_TOLERANCE_S and not timestamp.signed.is_expired(now)

    def _read_root_version(self) -> int:
        try:
            return parse_metadata(read_bounded(self._folder / "root.json", MAX_METADATA_BYTES), Root, name="root").signed.version
        except UNREADABLE:
            return 0


class _Fetcher(FetcherInterface):
    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self._call = fetch

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = urlsplit(url).path.lstrip("/")
        try:
            return iter((self._call(name),))
        except FleetRefusedError as error:
            if error.status == "NOT_FOUND":
                raise DownloadHTTPError(f"no {name}", 404) from error
            raise


def _expired(error: ExpiredMetadataError, *, by_clock: bool) -> MetadataRefusedError:
    return MetadataRefusedError(f"{type(error).__name__ if by_clock else 'the fleet let it expire'}: {error}"[:300], by_clock)


def _translate(error: RepositoryError | DownloadError) -> MetadataRefusedError | MetadataUnreachableError:
    if isinstance(error, RepositoryError):
        return MetadataRefusedError(f"{type(error).__name__}: {error}"[:300], False)
    cause = error.__cause__
    return MetadataUnreachableError(f"{cause or error}"[:300])

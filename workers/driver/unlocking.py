"""What opens the private keys, taken out of this process's environment, so that what it starts does not inherit it.

Teachers, trainers and devices run code and models that are not ours; the orchestrator needs its own passphrase and no other.
"""

from collections.abc import MutableMapping
from pathlib import Path

from pipeline.releases.journal import JOURNAL
from pipeline.releases.keys import ONLINE, OWNERS, RELEASE, Unlock, load_key, variables_of
from workers.driver.children import recorded
from workers.driver.folder import RunFolder


def take(environment: MutableMapping[str, str], keys: Path) -> Unlock:
    """Every owner's passphrases and keys, which the environment has no more. `keys` is the folder of the repository's keys."""
    names = set[str]().union(*(variables_of(keys, owner) for owner in OWNERS))
    return Unlock(environment={name: environment.pop(name) for name in names if name in environment})


def check_keys(folder: RunFolder, unlock: Unlock) -> None:
    """Open what will sign later, where it is there already: before anything is labelled or trained, not an hour after.

    Raises KeyLockedError and its like. A change of keys that a crash left half done is finished by the run, and not looked into; an
    orchestrator that an earlier run left alive has opened its own.
    """
    if (folder.keys / JOURNAL).exists():
        return
    kept = recorded(folder).get("orchestrator")
    for owner in (RELEASE,) if kept and kept.alive() else (RELEASE, ONLINE):
        for path in sorted({path.with_suffix(".pem") for path in (folder.keys / owner).glob("*") if path.suffix in (".pem", ".uri")}):
            load_key(path, unlock)


def handed_to(unlock: Unlock, owner: str, keys: Path) -> dict[str, str]:
    """The variables for a process that holds one owner's keys."""
    return {name: unlock.environment[name] for name in variables_of(keys, owner) if name in unlock.environment}

"""The one tree of errors.

Every error is named for the fact, carries what / found / expected / next command, survives pickling (a Ray actor sends it:
`args` are the constructor's parameters), and has an exit code that `workers.cli` turns it into.

| exit code | family                                   |
|-----------|------------------------------------------|
| 2         | the command line or the run file         |
| 3         | the user's data or source                |
| 4         | stored labels: corrupt, foreign, fenced  |
| 5         | the teacher                              |
| 6         | a student: training, export, gate        |
| 7         | the release repository or its trust      |
| 8         | the fleet: orchestrator, rollout         |
| 9         | a device                                 |
| 10        | this machine: disk, ports, memory, tools |
| 11        | another live run holds the folder        |
| 130       | stopped by the user                      |
"""

from collections.abc import Iterable

DESCRIBED = "docs/run-file.md describes every key"
"""Next step for whoever wrote a run file."""


class KdpipeError(Exception):
    """Base of every error kdpipe raises on purpose. Subclasses set `exit_code` and override `__str__`."""

    exit_code = 1


class ConfigError(KdpipeError):
    """The run file, a `--set` or an option says something that cannot be meant."""

    exit_code = 2

    def __init__(self, where: str, found: str, expected: str, next_command: str = "") -> None:
        super().__init__(where, found, expected, next_command)
        self.where, self.found, self.expected, self.next_command = where, found, expected, next_command

    def __str__(self) -> str:
        tail = f"; {self.next_command}" if self.next_command else ""
        return f"{self.where}: {self.found}; expected {self.expected}{tail}"


class UnknownKeyError(ConfigError):
    """A key that no section has. Names the known keys."""

    def __init__(self, where: str, key: str, known: Iterable[str]) -> None:
        known = tuple(sorted(known))
        super().__init__(where, f"unknown key {key!r}", f"one of: {', '.join(known)}", DESCRIBED)
        self.args = (where, key, known)


class DataError(KdpipeError):
    """The user's data cannot be used: a missing file, a missing column, a row that does not parse."""

    exit_code = 3


class LabelStoreError(KdpipeError):
    """Stored labels are corrupt, foreign, newer than this reader, or owned by a newer writer."""

    exit_code = 4


class TeacherError(KdpipeError):
    """The teacher could not be loaded, or what it says does not fit the run file."""

    exit_code = 5


class StudentError(KdpipeError):
    """A student could not be built, trained, exported or judged."""

    exit_code = 6


class ReleaseError(KdpipeError):
    """A bundle or signed metadata is missing, malformed, unsigned, expired or rolled back."""

    exit_code = 7


class FleetError(KdpipeError):
    """The orchestrator refused, could not be reached, or a rollout ended badly."""

    exit_code = 8


class DeviceError(KdpipeError):
    """A device cannot enrol, install or answer."""

    exit_code = 9


class MachineError(KdpipeError):
    """This machine lacks what the run needs: disk, a free port, memory, a tool."""

    exit_code = 10


class FolderBusyError(KdpipeError):
    """Another live process holds the folder: a run, or, where `next_command` says what ends it, something else."""

    exit_code = 11

    def __init__(self, folder: str, holder: str, next_command: str = "") -> None:
        super().__init__(folder, holder, next_command)
        self.folder, self.holder, self.next_command = folder, holder, next_command

    def __str__(self) -> str:
        if self.next_command:
            return f"{self.folder} is held by {self.holder}; expected a folder that nobody holds; {self.next_command}"
        return (
            f"{self.folder} is held by a live run ({self.holder}); expected a folder of its own per run; "
            f"`kdpipe status {self.folder}` shows it, `kdpipe stop {self.folder}` ends it, `kill -KILL PID` one that is frozen: "
            "its lock goes with it"
        )

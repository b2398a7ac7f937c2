"""Why labelling stops: errors that people get to read."""

from collections.abc import Sequence

from pipeline.errors import DataError, LabelStoreError, MachineError, TeacherError

VANISHED_SHOWN = 5
"""Parts that an error names one by one."""


class TeacherChangedError(LabelStoreError):
    """The teacher of the run file is not the one that wrote the labels that are there."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        return (
            f"the teacher of the run file has fingerprint {self.found}; expected {self.expected}, which wrote the labels that are there; "
            "throw those away with `kdpipe clean DIR --labels`, use another --dir, or keep both with `--set labelling.mixed_teachers=true`"
        )


class TeacherFailsError(TeacherError):
    """The teacher answers nothing: not a bad sample, a bad teacher."""

    def __init__(self, units: int, rows: int, reason: str) -> None:
        super().__init__(units, rows, reason)
        self.units, self.rows, self.reason = units, rows, reason

    def __str__(self) -> str:
        return (
            f"the teacher failed on {self.units} units ({self.rows} rows) in succession, last with: {self.reason}; "
            "expected log-probabilities; nothing was set aside; correct the teacher, then run again"
        )


class EmbeddingUnusableError(TeacherError):
    """Embeddings are wanted, and the teacher gives none, or now of one width and now of another."""

    def __init__(self, teacher: str, found: str, expected: str) -> None:
        super().__init__(teacher, found, expected)
        self.teacher, self.found, self.expected = teacher, found, expected

    def __str__(self) -> str:
        return (
            f"teacher {self.teacher}: gave {self.found}; expected {self.expected}, since `labelling.embedding` is true; "
            "set that to false, or take a teacher whose answers have an `embedding_BD`"
        )


class TeachersDisagreeError(TeacherError):
    """Replicas of one teacher answer the same samples differently, and none has most of the others on its side."""

    def __init__(self, replicas: int, deviating: int) -> None:
        super().__init__(replicas, deviating)
        self.replicas, self.deviating = replicas, deviating

    def __str__(self) -> str:
        return (
            f"of {self.replicas} replicas of the teacher at least {self.deviating} answer the same samples otherwise than the rest; "
            "expected most to agree; if the teacher draws at random or computes in low precision, set labelling.canary_tolerance; "
            "else look at the machines"
        )


class SourceFailsError(DataError):
    """The source can't be read: not a bad file, a bad disk, mount or adapter."""

    def __init__(self, units: int, rows: int, reason: str) -> None:
        super().__init__(units, rows, reason)
        self.units, self.rows, self.reason = units, rows, reason

    def __str__(self) -> str:
        return (
            f"the source failed on {self.units} units ({self.rows} rows) in succession, last with: {self.reason}; "
            "expected rows; nothing was set aside; make it readable, then run again"
        )


class PartVanishedError(DataError):
    """Planned parts of the source are gone or changed, and not all of their rows are labelled."""

    def __init__(self, parts: Sequence[tuple[str, int]]) -> None:
        """`parts` are (name, rows without label), at least one."""
        super().__init__(tuple(parts))
        self.parts = tuple(parts)

    def __str__(self) -> str:
        shown = [f"{name} ({rows} rows)" for name, rows in self.parts[:VANISHED_SHOWN]]
        if len(self.parts) > VANISHED_SHOWN:
            more = self.parts[VANISHED_SHOWN:]
            shown.append(f"{len(more)} more ({sum(rows for _, rows in more)} rows)")
        many = len(self.parts) > 1
        return (
            f"{', '.join(shown)}: gone or changed, with planned rows that have no label yet; "
            f"expected {'them as they were' if many else 'it as it was'} planned; put {'them' if many else 'it'} back; "
            f"if {'they' if many else 'it'} changed, run again to plan what is there now; or begin anew with `kdpipe clean DIR --labels`"
        )


class StoreWriteError(MachineError):
    """The label store can't be written to, again and again."""

    def __init__(self, tries: int, reason: str) -> None:
        super().__init__(tries, reason)
        self.tries, self.reason = tries, reason

    def __str__(self) -> str:
        return (
            f"the label store failed {self.tries} times in succession, last with: {self.reason}; "
            "expected to write; nothing committed is lost; `kdpipe doctor` looks at this machine"
        )


class RepairFailedError(LabelStoreError):
    """A bad shard could not be labelled again."""

    def __init__(self, shard: str, tries: int, reason: str) -> None:
        super().__init__(shard, tries, reason)
        self.shard, self.tries, self.reason = shard, tries, reason

    def __str__(self) -> str:
        return (
            f"shard {self.shard} could not be labelled again in {self.tries} tries, last: {self.reason}; "
            "expected its rows from source and teacher; `kdpipe labels verify DIR` lists every bad one"
        )

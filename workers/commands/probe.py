"""The first rows of a run's stream, for verbs that look at a teacher before it labels. Nothing is written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.config import RunFile


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the teacher said about N rows, K classes."""

    log_probs_NK: "NDArray[np.float32]"
    left_out: int
    """Rows without an answer: they stand in a batch at which the teacher raised, or the answer was NaN."""
    reason: str
    """Of the last of them."""


def probe_inputs(run: "RunFile", base: Path, rows: int) -> Any:
    """Inputs of the first rows of the stream, part after part. Raises SourceMissingError, and what opening the source raises."""
    import pyarrow as pa

    from pipeline.sources import SourceSpec
    from pipeline.sources.source import SourceMissingError

    source = SourceSpec(section=run.stream, base=base).open()
    found, left = [], rows
    for part in source.parts():
        if left and part.rows:
            found.append(source.read(part.identity, range(min(left, part.rows))).column("input").drop_null())
            left -= min(left, part.rows)
    if not found:
        raise SourceMissingError(str(base / (run.stream.path or "")), [])
    return pa.concat_arrays(found)


def label_probe(run: "RunFile", base: Path, rows: int, *, progress: Callable[[int, int], None]) -> Probe:
    """Load the teacher and ask it about those rows, here. Raises TeacherFailsError if it answers nothing."""
    import numpy as np
    import pyarrow as pa

    from pipeline.labels.evidence import faults
    from pipeline.teachers import load_teacher
    from pipeline.teachers.teacher import TeacherUnavailableError, batches_of
    from workers.labelling.faults import TeacherFailsError

    inputs = probe_inputs(run, base, rows)
    teacher = load_teacher(run.teacher, classes=run.classes, base=base)
    found, asked, reason = [np.empty((0, len(run.classes)), dtype=np.float32)], 0, "no row has an input"
    batches = batches_of(teacher, inputs, run.teacher.batch_rows)
    progress(0, len(inputs))
    for places_B in batches:
        try:
            answer_BK = teacher.log_probs(inputs.take(pa.array(places_B)))
        except TeacherUnavailableError:
            raise  # no row is at fault
        except Exception as error:  # noqa: BLE001 - the teacher may be the user's code; whatever it raises is a fact about the rows
            reason = f"{type(error).__name__}: {error}"
        else:
            bad = faults(answer_BK)
            reason = next(iter(bad.values()), reason)
            found.append(np.delete(answer_BK, list(bad), axis=0))
        asked += len(places_B)
        progress(asked, len(inputs))
    log_probs_NK = np.concatenate(found)
    if not len(log_probs_NK):
        raise TeacherFailsError(len(batches), len(inputs), reason)
    return Probe(log_probs_NK=log_probs_NK, left_out=len(inputs) - len(log_probs_NK), reason=reason)

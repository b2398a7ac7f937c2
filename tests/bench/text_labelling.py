"""text_labelling: e-mails of the spam recipe through MiniLM (22.7 M parameters), batches by length against batches in file order.

Both orders ask about the same texts with the same threads, in turn; in file order 32 rows at once. Texts are cut at 256 tokens, as by
default, and at 512, the model's own maximum: the more a long text keeps, the more a short one beside it is padded. Another order begins
each turn, and a first batch that nobody times warms the model up.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.teachers import Teacher, load_teacher
from pipeline.teachers.teacher import batches_of
from tests.bench.compare import Comparison, compare
from tests.bench.minilm import CLASSES, FILE_ORDER_ROWS, mails, section_of, unpack

RUNS, ROWS = 3, 512
MAX_TOKENS = (256, 512)

Order = Callable[[Teacher, pa.Array], Sequence[NDArray[np.int64]]]


def run(*, runs: int = RUNS, rows: int = ROWS) -> list[Comparison]:
    """Cases: rows/s by length, batching included, against rows/s in file order, turn by turn, for each number of tokens to cut at."""
    texts = pa.array(mails(rows), pa.string())
    found = []
    with tempfile.TemporaryDirectory(prefix="kdpipe-minilm-") as folder:
        unpack(Path(folder))
        for tokens in MAX_TOKENS:
            teacher = load_teacher(section_of(max_tokens=tokens), classes=CLASSES, base=Path(folder))
            teacher.log_probs(texts[:FILE_ORDER_ROWS])
            seconds: dict[Order, list[float]] = {_by_length: [], _in_file_order: []}
            for turn in range(runs):
                for order in sorted(seconds, key=list(seconds).index, reverse=turn % 2 == 1):
                    seconds[order].append(_seconds(teacher, texts, order))
            ours, theirs = ([rows / took_s for took_s in order] for order in seconds.values())
            case = f"{rows} e-mails cut at {tokens} tokens, {torch.get_num_threads()} threads"
            found.append(compare(name="text_labelling", case=case, unit="rows/s", ours=ours, against="in file order", theirs=theirs))
    return found


def _by_length(teacher: Teacher, texts: pa.Array) -> Sequence[NDArray[np.int64]]:
    return batches_of(teacher, texts, FILE_ORDER_ROWS)


def _in_file_order(teacher: Teacher, texts: pa.Array) -> Sequence[NDArray[np.int64]]:
    return [np.arange(start, min(start + FILE_ORDER_ROWS, len(texts))) for start in range(0, len(texts), FILE_ORDER_ROWS)]


def _seconds(teacher: Teacher, texts: pa.Array, order: Order) -> float:
    began_s = time.perf_counter()
    for places in order(teacher, texts):
        teacher.log_probs(texts.take(pa.array(places)))
    return time.perf_counter() - began_s

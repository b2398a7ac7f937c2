"""What `labelling` and `labelling_minilm` measure, each in a process of its own: `python -m tests.bench.labelling_peers PEER FOLDER`.

It prints one JSON object. FOLDER has the samples (`samples/*.parquet`, `samples_arrow/*.arrow`; `mails.jsonl`) and the teacher (`mlp.py`;
what `tests.bench.minilm` unpacks). A peer's figures are the rows after its
first result with the seconds from there to the last, and all rows with the seconds of the whole job, from a Ray that runs, where there
is one, to the end.
"""

import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 1024
UNIT_ROWS = 4096
FEATURES, CLASSES = 256, 100
BARE_S = 5.0
NAMES = tuple(f"class{number:03d}" for number in range(CLASSES))

MLP = '''"""A perceptron of 1.3 M parameters, as a user would bring it."""

import numpy as np
import torch


def model():
    torch.manual_seed(1)
    width = 976
    layers = [torch.nn.Linear(256, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 100)]
    return torch.nn.Sequential(*layers).eval()


class Teacher:
    def __init__(self):
        self.classes = [f"class{number:03d}" for number in range(100)]
        self.model = model()

    def log_probs(self, inputs):
        samples = torch.from_numpy(inputs.flatten().to_numpy(zero_copy_only=False).reshape(len(inputs), -1))
        with torch.inference_mode():
            return torch.log_softmax(self.model(samples), 1).numpy()
'''


def write_samples(folder: Path, *, rows: int, files: int = 4) -> None:
    """The same rows as Parquet and as Arrow IPC, and the teacher."""
    chance = np.random.default_rng(1)
    (folder / "samples").mkdir(parents=True)
    (folder / "samples_arrow").mkdir()
    (folder / "mlp.py").write_text(MLP)
    for number, part in enumerate(np.array_split(np.arange(rows), files)):
        values = pa.array(chance.standard_normal(len(part) * FEATURES, dtype=np.float32))
        table = pa.table({"id": pa.array(part), "x": pa.FixedSizeListArray.from_arrays(values, FEATURES)})
        pq.write_table(table, folder / "samples" / f"{number}.parquet", row_group_size=25_000)
        with pa.OSFile(str(folder / "samples_arrow" / f"{number}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table, max_chunksize=25_000)


def kdpipe(folder: Path, *, samples: str, workers: int, cpus: float) -> dict[str, float]:
    """Our labelling of the rows of floats by the perceptron."""
    from pipeline.config import LabellingSection, SourceSection, TeacherSection

    return _labelling(
        folder,
        source=SourceSection(path=samples, input="x", kind="floats"),
        teacher=TeacherSection(use="mlp:Teacher", workers_min=workers, workers_max=workers, cpus=cpus, batch_rows=BATCH_ROWS),
        classes=NAMES,
        section=LabellingSection(unit_rows=UNIT_ROWS, window_rows=16 * UNIT_ROWS),
    )


def kdpipe_minilm(folder: Path) -> dict[str, float]:
    """Our labelling of e-mails: one actor of two CPUs, units as a run file has them by default."""
    from pipeline.config import LabellingSection, SourceSection
    from tests.bench.minilm import CLASSES as HAM_AND_SPAM
    from tests.bench.minilm import section_of

    source = SourceSection(path="mails.jsonl")
    return _labelling(folder, source=source, teacher=section_of(), classes=HAM_AND_SPAM, section=LabellingSection())


def minilm_loop(folder: Path) -> dict[str, float]:
    """The plain script: 32 e-mails at once in file order, padded to the longest, softmax to fp16; nothing is written."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    from pipeline.teachers.transformers import MAX_TOKENS
    from tests.bench.minilm import FILE_ORDER_ROWS, HEAD, MODEL

    torch.set_num_threads(2)
    began_s = time.perf_counter()
    texts = [json.loads(line)["text"] for line in (folder / "mails.jsonl").read_text().splitlines()]
    tokenizer, model = AutoTokenizer.from_pretrained(folder / MODEL), AutoModel.from_pretrained(folder / MODEL).eval()
    head = load_file(folder / HEAD)
    events, kept = [], []
    for start in range(0, len(texts), FILE_ORDER_ROWS):
        batch = texts[start : start + FILE_ORDER_ROWS]
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            hidden_BTD = model(**tokens).last_hidden_state
            mask_BT1 = tokens["attention_mask"].unsqueeze(-1)
            means_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
            kept.append(torch.softmax(means_BD @ head["weight"].T + head["bias"], 1).half())
        events.append((time.time(), len(batch)))
    return _figures(events, time.perf_counter() - began_s)


def _labelling(folder: Path, *, source: Any, teacher: Any, classes: tuple[str, ...], section: Any) -> dict[str, float]:
    """Plan, label, commit, end; shards, inputs included, are durable."""
    import ray

    from pipeline.labels.entries import Record
    from pipeline.sources import SourceSpec
    from workers.labelling import Demand, Labelling

    _start_ray(cpus=2)
    with tempfile.TemporaryDirectory(dir=folder) as labels:
        began_s = time.perf_counter()
        labelling = Labelling(
            store_url=labels,
            source=SourceSpec(section=source, base=folder),
            teacher=teacher,
            classes=classes,
            base=folder,
            section=section,
            seed=1,
            generation=1,
            holder="bench",
        )
        planned = labelling.plan()
        outcome = labelling.run(demand=Demand, progress=lambda _: None, stop=threading.Event())
        total_s = time.perf_counter() - began_s
        assert outcome.ended
        assert outcome.rows_committed == planned.rows_left
        records = [Record.decode(path.read_bytes(), key=path.name) for path in sorted(Path(labels, "log").glob("0*.json"))]
        committed = [(record.at_unix_s, _rows_committed(record)) for record in records]
    ray.shutdown()
    return _figures([event for event in committed if event[1]], total_s)


def _rows_committed(record: Any) -> int:
    return sum(entry.shard.rows for entry in record.entries if entry.kind == "commit")


def torch_loop(folder: Path, *, processes: int, threads: int) -> dict[str, float]:
    """The plain script: read, ask, log-softmax to fp16; nothing is written. Processes share the row groups out."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    shares = [(folder, number, processes, threads, barrier, results) for number in range(processes)]
    children = [context.Process(target=_torch_share, args=share) for share in shares]
    for child in children:
        child.start()
    found = [results.get(timeout=1200) for _ in children]
    for child in children:
        child.join()
    return _figures(sorted(event for _, events in found for event in events), max(took_s for took_s, _ in found))


def _torch_share(folder: Path, number: int, processes: int, threads: int, barrier: Any, results: Any) -> None:
    import torch

    torch.set_num_threads(threads)
    pa.set_cpu_count(threads)
    model = _model(folder)
    barrier.wait()
    began_s, events, kept = time.perf_counter(), [], []
    for path in sorted((folder / "samples").iterdir()):
        file = pq.ParquetFile(path)
        groups = range(number, file.metadata.num_row_groups, processes)
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=["x"]):
            samples = torch.from_numpy(batch.column(0).flatten().to_numpy().reshape(-1, FEATURES))
            with torch.inference_mode():
                kept.append(torch.log_softmax(model(samples), 1).half())
            events.append((time.time(), len(kept[-1])))
    results.put((time.perf_counter() - began_s, events))


def bare_model(folder: Path, *, threads: int) -> dict[str, float]:
    """The model and nothing else: one batch in memory, again and again."""
    import torch

    torch.set_num_threads(threads)
    model = _model(folder)
    samples = torch.from_numpy(np.random.default_rng(1).standard_normal((BATCH_ROWS, FEATURES), dtype=np.float32))
    events = []
    began_s = time.perf_counter()
    while time.perf_counter() - began_s < BARE_S:
        with torch.inference_mode():
            model(samples)
        events.append((time.time(), BATCH_ROWS))
    return _figures(events, time.perf_counter() - began_s)


class _RayDataTeacher:
    def __init__(self, folder: Path, answered: Path) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch, self._model = torch, _model(folder)
        self._answered = answered / str(os.getpid())

    def __call__(self, batch: Any) -> Any:
        values = batch.column("x").combine_chunks()
        samples = self._torch.from_numpy(values.flatten().to_numpy(zero_copy_only=False).reshape(-1, FEATURES))
        with self._torch.inference_mode():
            log_probs_BK = self._torch.log_softmax(self._model(samples), 1).half().numpy()
        column = pa.FixedSizeListArray.from_arrays(pa.array(log_probs_BK.reshape(-1)), CLASSES)
        with self._answered.open("a") as file:
            file.write(f"{time.time()} {len(column)}\n")
        return pa.table({"id": batch.column("id"), "log_probs": column})


def ray_data(folder: Path) -> dict[str, float]:
    """`map_batches` with two actors and `write_parquet`. It starves on 2 CPUs, so it is told of 4.

    In its favour: it writes ids and labels only, where ours carries the inputs along; and batches count as soon as they are answered.
    """
    import ray

    _start_ray(cpus=4)
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory(dir=folder) as labels, tempfile.TemporaryDirectory(dir=folder) as answered:
        began_s = time.perf_counter()
        answers = ray.data.read_parquet(str(folder / "samples")).map_batches(
            _RayDataTeacher,
            fn_constructor_args=(folder, Path(answered)),
            batch_format="pyarrow",
            batch_size=BATCH_ROWS,
            concurrency=2,
            num_cpus=1,
        )
        answers.write_parquet(labels)
        total_s = time.perf_counter() - began_s
        lines = [line.split() for path in Path(answered).iterdir() for line in path.read_text().splitlines()]
    ray.shutdown()
    return _figures(sorted((float(at_s), int(rows)) for at_s, rows in lines), total_s)


def _figures(events: list[tuple[float, int]], total_s: float) -> dict[str, float]:
    """`events`: (when, rows that were done then), ascending."""
    return {
        "rows": float(sum(rows for _, rows in events)),
        "total_s": total_s,
        "steady_rows": float(sum(rows for _, rows in events[1:])),
        "steady_s": events[-1][0] - events[0][0],
    }


def _model(folder: Path) -> Any:
    sys.path.append(str(folder))
    mlp = importlib.import_module("mlp")

    return mlp.model()


def _start_ray(*, cpus: int) -> None:
    import ray

    # Ray starts its workers at niceness 15, a plain script runs at 0: where somebody else uses the machine, that would be measured.
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")


PEERS: Mapping[str, Callable[[Path], dict[str, float]]] = {
    "kdpipe": lambda folder: kdpipe(folder, samples="samples", workers=2, cpus=1.0),
    "kdpipe, 1 actor of 2 CPUs": lambda folder: kdpipe(folder, samples="samples", workers=1, cpus=2.0),
    "kdpipe, Arrow IPC in": lambda folder: kdpipe(folder, samples="samples_arrow", workers=2, cpus=1.0),
    "torch loop, 2 x 1": lambda folder: torch_loop(folder, processes=2, threads=1),
    "torch loop, 1 x 2": lambda folder: torch_loop(folder, processes=1, threads=2),
    "bare model": lambda folder: bare_model(folder, threads=2),
    "ray data": ray_data,
}
MINILM_PEERS: Mapping[str, Callable[[Path], dict[str, float]]] = {"kdpipe, MiniLM": kdpipe_minilm, "plain loop, MiniLM": minilm_loop}

if __name__ == "__main__":
    _, peer, where = sys.argv
    print(json.dumps({**PEERS, **MINILM_PEERS}[peer](Path(where))))

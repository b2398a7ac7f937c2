"""What `reader` measures, each in a process of its own: `python -m tests.bench.reader_peers PEER FOLDER write ROWS`, then with
`read SECONDS` in the place of that, which prints a JSON object.

The same samples for everyone, N rows of 256 float32 and 100 float16, written once in each peer's own format to local disk; read in
batches of 256 as torch tensors (float32 both), shuffled over 4,096 rows or more, one epoch after the other. Runs in the environment of
`make bench-env`, where the peers are installed without what they depend on for other things; MosaicML Streaming imports torchvision and
transformers for datasets that nobody asked for here, so empty modules stand in for those.
"""

import functools
import importlib.machinery
import itertools
import json
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FEATURES, CLASSES, BATCH, SHUFFLED = 256, 100, 256, 4096
NAMES = tuple(f"class{number:03d}" for number in range(CLASSES))
WINDOW_ROWS = SHUFFLED

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
Read = Callable[[Path], Batches]
"""Batches without end: after an epoch the next, in another order."""


@functools.cache
def samples(rows: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(1)
    logits = chance.standard_normal((rows, CLASSES), dtype=np.float32)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return chance.standard_normal((rows, FEATURES), dtype=np.float32), log_probs.astype(np.float16)


def write_kdpipe(folder: Path, rows: int) -> None:
    import pyarrow as pa

    from pipeline.labels.entries import Commit, End, Plan, Seal
    from pipeline.labels.log import LogWriter
    from pipeline.labels.shard import LabelledRows, encode_shard, put_shard
    from pipeline.labels.store import open_store

    store = open_store(str(folder))
    writer = LogWriter.open(store, holder="bench", classes=NAMES, nonce="bench", now_unix_s=0.0)
    writer.queue([Plan(part="part", name="part", first=0, rows=rows, stride=1)])
    values, log_probs = samples(rows)
    for commits, first in enumerate(range(0, rows, SHUFFLED), start=1):
        stop = min(first + SHUFFLED, rows)
        labelled = LabelledRows(
            rows_N=np.arange(first, stop),
            sample_ids=pa.array([f"part:{row}" for row in range(first, stop)]),
            inputs=pa.FixedSizeListArray.from_arrays(pa.array(values[first:stop].reshape(-1)), FEATURES).cast(pa.list_(pa.float32())),
            log_probs_NK=log_probs[first:stop].astype(np.float32),
            labels=pa.nulls(stop - first, pa.string()),
        )
        shard = put_shard(store, f"shards/{first:012d}.arrow", encode_shard(labelled, teacher="t", classes=NAMES), rows=stop - first)
        writer.queue([Commit(start=first, stop=stop, shard=shard, teacher="t", teacher_s=0.0)])
        if commits % (WINDOW_ROWS // SHUFFLED) == 0 or stop == rows:
            sealed = writer.state.windows[-1].stop_commit if writer.state.windows else 0
            held = stop - sealed * SHUFFLED
            writer.queue([Seal(window=len(writer.state.windows), first_commit=sealed, stop_commit=commits, rows=held)])
        writer.flush(now_unix_s=0.0)
    writer.queue([End(generation=1)])
    writer.flush(now_unix_s=0.0)


def kdpipe_reader() -> Read:
    """What kdpipe's trainers and its data set read with, by itself: in this thread, and one that loads the next window."""
    import pyarrow as pa

    from pipeline.labels.reader import LabelBatch, LabelReader, NotYet
    from pipeline.labels.store import open_store

    pa.array(np.zeros(1))  # at its first array pyarrow imports pandas, where there is one

    def read(folder: Path) -> Batches:
        reader = LabelReader(open_store(str(folder)), generation=1, batch=BATCH, seed=1)
        cursor = reader.start()
        while not isinstance(found := reader.read(cursor), NotYet):
            if isinstance(found, LabelBatch):
                assert found.inputs_BF is not None
                yield torch.from_numpy(found.inputs_BF), torch.from_numpy(found.log_probs_BK)
                cursor = found.cursor_after
            else:
                cursor = found.next

    return read


def data_set_reader(columns: tuple[str, ...] | None) -> Read:
    """As a training loop of one's own reads, and kdpipe's: another thread reads ahead. What it asks for, or all there is, with ids, hard
    labels and evidence."""
    import pyarrow as pa

    from workers.dataset import LabelDataset

    pa.array(np.zeros(1))

    def read(folder: Path) -> Batches:
        dataset = LabelDataset(str(folder), batch=BATCH, seed=1, columns=columns)
        while True:
            for batch in dataset:
                yield batch["inputs"], batch["log_probs"]

    return read


def write_mosaicml(folder: Path, rows: int) -> None:
    streaming = _streaming()
    columns = {"x": f"ndarray:float32:{FEATURES}", "y": f"ndarray:float16:{CLASSES}"}
    with streaming.MDSWriter(out=str(folder), columns=columns) as writer:
        for x, y in zip(*samples(rows), strict=True):
            writer.write({"x": x, "y": y})


def mosaicml_reader() -> Read:
    streaming = _streaming()

    def read(folder: Path) -> Batches:
        dataset = streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH, shuffle_block_size=SHUFFLED)
        loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH)
        while True:
            for batch in loader:
                yield batch["x"], batch["y"].float()

    return read


def _streaming() -> Any:
    def stand_in(name: str, **named: Any) -> None:
        module = types.ModuleType(name)
        module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None), []
        module.__dict__.update(named)
        sys.modules[name] = module

    stand_in("torchvision")
    stand_in("torchvision.datasets", VisionDataset=object, CIFAR10=object)
    stand_in("torchvision.transforms")
    stand_in("torchvision.transforms.functional", to_tensor=None)
    stand_in("transformers")
    for name, made in (
        ("feature_extraction_utils", "BatchFeature"),
        ("tokenization_utils_base", "BatchEncoding"),
        ("models.auto.tokenization_auto", "AutoTokenizer"),
    ):
        for depth in range(1, name.count(".") + 1):
            stand_in("transformers." + ".".join(name.split(".")[:depth]))
        stand_in(f"transformers.{name}", **{made: type(made, (), {})})
    return importlib.import_module("streaming")


def _litdata_sample(row_of_rows: tuple[int, int]) -> dict[str, torch.Tensor]:
    row, rows = row_of_rows
    x, y = samples(rows)
    return {"x": torch.from_numpy(x[row]), "y": torch.from_numpy(y[row])}


def write_litdata(folder: Path, rows: int) -> None:
    import litdata  # type: ignore[import-not-found]

    named = importlib.import_module("tests.bench.reader_peers")  # its workers can't find what is called __main__
    litdata.optimize(named._litdata_sample, [(row, rows) for row in range(rows)], str(folder), num_workers=1, chunk_bytes="16MB")


def litdata_reader() -> Read:
    import litdata

    def read(folder: Path) -> Batches:
        dataset = litdata.StreamingDataset(str(folder), shuffle=True)
        loader = litdata.StreamingDataLoader(dataset, batch_size=BATCH)
        while True:
            for batch in loader:
                yield batch["x"], batch["y"].float()

    return read


def write_hf(folder: Path, rows: int) -> None:
    import datasets  # type: ignore[import-not-found]

    x, y = samples(rows)
    features = datasets.Features(
        {"x": datasets.List(datasets.Value("float32"), FEATURES), "y": datasets.List(datasets.Value("float16"), CLASSES)}
    )
    datasets.Dataset.from_dict({"x": x, "y": y}, features=features).save_to_disk(str(folder))


def hf_reader(kind: str) -> Read:
    """Arrow tables, made into tensors by hand, or tensors as it makes them itself."""
    import datasets

    def read(folder: Path) -> Batches:
        files = sorted(str(path) for path in folder.glob("*.arrow"))
        stream = datasets.load_dataset("arrow", data_files=files, split="train", streaming=True)
        shuffled = stream.shuffle(seed=1, buffer_size=SHUFFLED).with_format(kind)
        for epoch in itertools.count():
            shuffled.set_epoch(epoch)
            for batch in shuffled.iter(BATCH):
                if kind == "arrow":
                    x, y = (torch.from_numpy(_matrix(batch[name])) for name in "xy")
                else:
                    x, y = batch["x"], batch["y"]
                yield x, y.float()

    def _matrix(column: Any) -> np.ndarray:
        flat: np.ndarray = column.combine_chunks().flatten().to_numpy()
        return flat.reshape(len(column), -1)

    return read


def write_raw(folder: Path, rows: int) -> None:
    import pyarrow as pa

    folder.mkdir(parents=True)
    lists = [pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]) for values in samples(rows)]
    batch = pa.record_batch(lists, names=["x", "y"])
    with pa.ipc.new_file(str(folder / "rows.arrow"), batch.schema) as file:
        file.write(batch)


def raw_reader() -> Read:
    """The limit: a mapped Arrow file, and of each of its two columns one numpy `take` a batch, in an order drawn over all rows."""
    import pyarrow as pa

    pa.array(np.zeros(1))

    def read(folder: Path) -> Batches:
        batch = pa.ipc.open_file(pa.memory_map(str(folder / "rows.arrow"))).get_batch(0)
        x, y = (batch[name].flatten().to_numpy().reshape(len(batch), -1) for name in "xy")
        chance = np.random.default_rng(1)
        while True:
            order = chance.permutation(len(x))
            for first in range(0, len(order), BATCH):
                rows = order[first : first + BATCH]
                yield torch.from_numpy(x.take(rows, axis=0)), torch.from_numpy(y.take(rows, axis=0).astype(np.float32))

    return read


WRITERS: Mapping[str, Callable[[Path, int], None]] = {
    "kdpipe": write_kdpipe,
    "kdpipe data set": write_kdpipe,
    "kdpipe data set, all columns": write_kdpipe,
    "mosaicml streaming": write_mosaicml,
    "litdata": write_litdata,
    "hf datasets": write_hf,
    "hf datasets tensors": write_hf,
    "raw mmap": write_raw,
}
READERS: Mapping[str, Callable[[], Read]] = {
    "kdpipe": kdpipe_reader,
    "hf datasets": functools.partial(hf_reader, "arrow"),
    "kdpipe data set": functools.partial(data_set_reader, ("inputs", "log_probs", "weight")),
    "kdpipe data set, all columns": functools.partial(data_set_reader, None),
    "hf datasets tensors": functools.partial(hf_reader, "torch"),
    "mosaicml streaming": mosaicml_reader,
    "litdata": litdata_reader,
    "raw mmap": raw_reader,
}
"""What each imports, then how it reads."""


def read(peer: str, folder: Path, turn_s: float) -> dict[str, float]:
    """Rows after the first batch until the turn is over, wall and CPU seconds for them, and seconds from the imports' end to the first
    batch."""
    torch.set_num_threads(1)
    reader = READERS[peer]()
    began_s = time.perf_counter()
    batches = reader(folder)
    x, y = next(batches)
    first_s, first_cpu_s = time.perf_counter(), time.process_time()
    rows, seen, now_s = 0, float(x[0, 0]) + float(y[0, 0]), first_s
    while now_s - first_s < turn_s:
        x, y = next(batches)
        assert x.dtype == y.dtype == torch.float32
        assert x.shape[1:] == (FEATURES,)
        rows += len(x)
        seen += float(x[0, 0]) + float(y[0, 0])
        now_s = time.perf_counter()
    return {"rows": rows, "seconds": now_s - first_s, "cpu_seconds": time.process_time() - first_cpu_s, "first_batch_s": first_s - began_s}


if __name__ == "__main__":
    _, peer_, where, what, count = sys.argv
    if what == "write":
        WRITERS[peer_](Path(where), int(count))
    else:
        print(json.dumps(read(peer_, Path(where), float(count))))

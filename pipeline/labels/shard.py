"""Shards: labelled samples as one Arrow IPC file, never changed once a commit names it.

    row        int64               global row number
    sample_id  string
    input      string | list<float32>   what a student needs
    log_probs  by the codec        see `codecs`
    entropy    float32             nats
    margin     float32             p(first) - p(second)
    disagreement float32           between the members of a teacher of several; null where there is one
    embedding  fixed_size_list<float16>   what the teacher sees in the input. Only where that is kept
    label      string              the source's hard label; null where there is none
    agreement  float32             the teacher's probability of that; null where it is none, or none of the classes. Not in version 1
    content_key  16 bytes          see `content`; zeros where the row's label may not be used for others. Only where labels are reused

The schema's metadata says version, codec with its options, classes and teacher; what a reader does not know it refuses. Arrow IPC has
no checksum and reads flipped bits as data, so every byte is checked against the crc32 that the commit recorded before it is looked at:
by zlib-ng, which is ten times faster at it than the zlib of most systems, where it was a fifth of all reading.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from pipeline.errors import LabelStoreError
from pipeline.labels.codecs import CODECS, DENSE_FP16, Codec, SparseLabels, codec_from
from pipeline.labels.content import key_column
from pipeline.labels.embedding import embedding_column, embedding_width
from pipeline.labels.entries import ShardRef
from pipeline.labels.evidence import agreement, entropy_nats, margin
from pipeline.labels.store import MappedStore, ObjectMissingError, Store

SHARDS = "shards/"
"""Where their keys begin."""
SHARD_VERSION = 2
VERSIONS_READ = (1, SHARD_VERSION)
LABELS_VERSION = 1
"""Of the columns that the teacher gives. A shard's version may leave it as it was: labels of one such version stand for each other."""
CONTENT_KEY = "content_key"
_METADATA_KEY = b"kdpipe.shard"
_HEAD_BYTES = 1 << 14
_MAGIC = b"ARROW1\0\0"
"""Before the schema."""
_NO_LABELS = {"row", "sample_id", "input", "label", "agreement", CONTENT_KEY}
"""Columns that the source gives, or has a part in: copies of one input may have hard labels that differ."""


class ShardCorruptError(LabelStoreError):
    """A committed shard is missing, or its bytes are not those that were committed."""

    def __init__(self, shard: str, expected: str, found: str) -> None:
        super().__init__(shard, expected, found)
        self.shard, self.expected, self.found = shard, expected, found

    def __str__(self) -> str:
        return (
            f"shard {self.shard}: {self.found}; expected {self.expected} as in the log; `kdpipe labels repair DIR` or the next "
            "`kdpipe run` labels it again, `kdpipe labels verify DIR` lists every bad one"
        )


class ShardUnknownError(LabelStoreError):
    """A shard is intact and written in a way that this reader does not know."""

    def __init__(self, shard: str, expected: str, found: str) -> None:
        super().__init__(shard, expected, found)
        self.shard, self.expected, self.found = shard, expected, found

    def __str__(self) -> str:
        return f"shard {self.shard}: {self.found}; expected {self.expected}; was it written by a newer kdpipe?"


class ShardTakenError(LabelStoreError):
    """Another shard lies where one was to be put."""

    def __init__(self, shard: str) -> None:
        super().__init__(shard)
        self.shard = shard

    def __str__(self) -> str:
        return f"shard {self.shard} is there already, with other bytes; expected a key that nobody had; does another program write here?"


@dataclass(frozen=True, kw_only=True)
class Copied:
    """Labels from other shards for C of N rows, bit for bit."""

    places_C: NDArray[np.int64]
    """Which of the N; ascending."""
    columns: pa.Table
    """C rows of label columns."""


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """N labelled samples in memory, ascending by row."""

    rows_N: NDArray[np.int64]
    sample_ids: pa.Array
    """string."""
    inputs: pa.Array
    log_probs_NK: NDArray[np.float32]
    labels: pa.Array
    """string, null where there is none."""
    disagreement_N: NDArray[np.float32] | None = None
    embedding_ND: NDArray[np.float16] | None = None
    """None where embeddings are not kept."""
    keys_N2: NDArray[np.uint64] | None = None
    """Content keys; None where labels are not reused."""
    copied: Copied | None = None
    """What takes the place of `log_probs_NK`, `disagreement_N` and `embedding_ND` in some rows; it has embeddings if those are kept."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A checked shard; columns are views of its bytes."""

    table: pa.Table
    teacher: str
    classes: tuple[str, ...]
    codec: Codec

    def log_probs(self, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """float32 [N, K], renormalised, of those rows of the shard."""
        return self.codec.decode(self._column(rows), len(self.classes))

    def sparse(self, rows: NDArray[np.int64] | slice = slice(None)) -> SparseLabels:
        """Of those rows, the classes that were recorded."""
        return self.codec.sparse(self._column(rows), len(self.classes))

    def _column(self, rows: NDArray[np.int64] | slice) -> pa.Array:
        column = self.table["log_probs"].combine_chunks()
        return column[rows] if isinstance(rows, slice) else column.take(pa.array(rows))


def encode_shard(
    labelled: LabelledRows, *, teacher: str, classes: tuple[str, ...], codec: Codec = DENSE_FP16, compressed: bool = False
) -> bytes:
    """The bytes of a shard, `compressed` with zstd or to be looked at in place. `log_probs_NK` may hold -inf, never NaN."""
    columns = {
        "row": pa.array(labelled.rows_N, pa.int64()),
        "sample_id": labelled.sample_ids,
        "input": labelled.inputs,
        **_labels(labelled, codec),
        "label": labelled.labels,
        "agreement": _agreement(labelled, codec, classes),
    }
    if labelled.keys_N2 is not None:
        columns[CONTENT_KEY] = key_column(labelled.keys_N2)
    batch = pa.record_batch(columns)
    described = _described(SHARD_VERSION, teacher=teacher, classes=classes, codec=codec, embedding=labelled.embedding_ND is not None)
    return shard_bytes(batch.replace_schema_metadata({_METADATA_KEY: json.dumps(described)}), compressed=compressed)


def shard_bytes(batch: pa.RecordBatch, *, compressed: bool) -> bytes:
    """The file of a shard, from its rows with their schema's metadata."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd" if compressed else None)) as file:
        file.write_batch(batch)
    return bytes(sink.getvalue())


def maker(*, teacher: str, classes: tuple[str, ...], codec: Codec, embedding: bool = False) -> bytes:
    """Who says the labels and how they are written: all that decides what is in the label columns, and of which types they are.

    Labels of one maker may stand for each other. The width of an embedding is the teacher's, and so is part of its fingerprint.
    """
    return json.dumps(_described(LABELS_VERSION, teacher=teacher, classes=classes, codec=codec, embedding=embedding)).encode()


def maker_of(schema: pa.Schema) -> bytes:
    """The same, of a shard of any version that is read."""
    return json.dumps(_description(schema) | {"version": LABELS_VERSION}).encode()


def _described(version: int, *, teacher: str, classes: tuple[str, ...], codec: Codec, embedding: bool) -> dict[str, Any]:
    described = {
        "version": version,
        "codec": codec.name,
        "codec_version": codec.version,
        "codec_options": asdict(codec),
        "classes": classes,
        "teacher": teacher,
    }
    return described | {"embedding": True} if embedding else described  # labels of shards older than the key have none


def _description(schema: pa.Schema) -> dict[str, Any]:
    return dict(json.loads((schema.metadata or {}).get(_METADATA_KEY, b"{}")))


def label_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns that the teacher gives."""
    return [name for name in schema.names if name not in _NO_LABELS]


def _labels(labelled: LabelledRows, codec: Codec) -> dict[str, pa.Array]:
    """Label columns: encoded, and what was copied put in its places."""
    rows, copied = len(labelled.rows_N), labelled.copied
    asked = np.arange(rows) if copied is None else np.setdiff1d(np.arange(rows), copied.places_C)
    log_probs_NK = labelled.log_probs_NK if copied is None else labelled.log_probs_NK[asked]
    disagreement = pa.nulls(rows, pa.float32()) if labelled.disagreement_N is None else pa.array(labelled.disagreement_N, pa.float32())
    encoded = {
        "log_probs": codec.encode(log_probs_NK, labelled.rows_N[asked]),
        "entropy": pa.array(entropy_nats(log_probs_NK)),
        "margin": pa.array(margin(log_probs_NK)),
        "disagreement": disagreement if copied is None else disagreement.take(pa.array(asked)),
    }
    if labelled.embedding_ND is not None:
        encoded["embedding"] = embedding_column(labelled.embedding_ND[asked])
    if copied is None:
        return encoded
    order = pa.array(np.argsort(np.concatenate([asked, copied.places_C]), kind="stable"))
    return {name: pa.concat_arrays([column, *copied.columns[name].chunks]).take(order) for name, column in encoded.items()}


def _agreement(labelled: LabelledRows, codec: Codec, classes: tuple[str, ...]) -> pa.Array:
    """Of each row with its own hard label: from the answer, or for a copied label from what the codec kept of it."""
    class_N = pc.fill_null(pc.index_in(labelled.labels, value_set=pa.array(classes, pa.string())), -1).to_numpy().astype(np.int64)
    agreement_N = agreement(labelled.log_probs_NK, class_N)
    if labelled.copied is not None:
        places_C = labelled.copied.places_C
        stored = labelled.copied.columns["log_probs"].combine_chunks()
        agreement_N[places_C] = agreement(codec.decode(stored, len(classes)), class_N[places_C])
    return pa.array(agreement_N, pa.float32(), mask=class_N < 0)


def put_shard(store: Store, key: str, data: bytes, *, rows: int) -> ShardRef:
    """Store the shard; when this returns it is durable. It counts once a commit names it.

    Nothing is ever replaced. Raises ShardTakenError if another shard has the key; the same bytes may be put again.
    """
    if not store.put_if_absent(key, data) and store.get(key) != data:  # it may be ours: a store repeats what was not answered
        raise ShardTakenError(key)
    return ShardRef(key=key, rows=rows, bytes=len(data), crc32=zlib_ng.crc32(data))


def stored_embedding_width(store: Store, ref: ShardRef) -> int | None:
    """D as the beginning of the shard says, which is not checked: what reads the rest finds out what is damaged."""
    for head_bytes in (_HEAD_BYTES, ref.bytes):  # all of it, should its schema be longer than any
        try:
            head = store.get_range(ref.key, 0, min(head_bytes, ref.bytes))
        except ObjectMissingError:
            return None
        with contextlib.suppress(pa.ArrowException, OSError):  # Arrow says OSError too of what ends too early
            return embedding_width(pa.ipc.read_schema(pa.py_buffer(head[len(_MAGIC) :])))
    return None


def read_shard(store: Store, ref: ShardRef) -> Shard:
    """The shard, every byte checked; zero-copy on local disk. Raises ShardCorruptError, ShardUnknownError."""
    try:
        data = store.map(ref.key) if isinstance(store, MappedStore) else memoryview(store.get(ref.key))
    except ObjectMissingError as error:
        raise ShardCorruptError(ref.key, f"{ref.bytes} bytes", "the object is missing") from error
    if len(data) != ref.bytes:
        raise ShardCorruptError(ref.key, f"{ref.bytes} bytes", f"{len(data)} bytes")
    crc32 = zlib_ng.crc32(data)
    if crc32 != ref.crc32:
        raise ShardCorruptError(ref.key, f"crc32 {ref.crc32:08x}", f"crc32 is {crc32:08x}")
    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    except pa.ArrowInvalid as error:
        raise ShardUnknownError(ref.key, "an Arrow IPC file", str(error)) from error
    described = _description(table.schema)
    if described.get("version") not in VERSIONS_READ:
        raise ShardUnknownError(ref.key, f"version {' or '.join(map(str, VERSIONS_READ))}", f"version {described.get('version')}")
    options = described.get("codec_options", {})  # shards older than the key are dense
    codec = codec_from(described["codec"], described["codec_version"], options)
    if codec is None:
        known = ", ".join(f"{name} {known.version}" for name, known in CODECS.items())
        raise ShardUnknownError(
            ref.key, f"one of the codecs {known}", f"codec {described['codec']} {described['codec_version']} with the options {options}"
        )
    classes, stored = tuple(described["classes"]), table.schema.field("log_probs").type
    if stored != codec.column_type(len(classes)):
        raise ShardUnknownError(ref.key, f"{codec.column_type(len(classes))} for {codec}", f"log_probs are {stored}")
    if (embedding_width(table.schema) is not None) != described.get("embedding", False):
        raise ShardUnknownError(ref.key, f"embeddings: {described.get('embedding', False)}", f"columns {', '.join(table.schema.names)}")
    if described["version"] == 1:
        table = table.append_column("agreement", pa.nulls(len(table), pa.float32()))
    return Shard(table=table, teacher=described["teacher"], classes=classes, codec=codec)

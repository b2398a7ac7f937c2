"""How log-probabilities are stored: T=1, natural log, one named and versioned codec per shard.

| codec      | holds                                   | classes without a record         |
|------------|-----------------------------------------|----------------------------------|
| dense_fp16 | every class                             | none                             |
| top_k      | the k likeliest, and the rest's mass    | share that mass equally          |
| sampled    | classes drawn in proportion, as counts  | nothing; the mean over draws is right |

Which to take is a matter of bytes and error: `pipeline.labels.advice` measures both on a teacher's own answers.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from pipeline.config import LabellingSection
from pipeline.labels.codecs.codec import CLAMP_NATS, Codec, SparseLabels, log_normalised
from pipeline.labels.codecs.dense import DENSE_FP16, DenseFp16
from pipeline.labels.codecs.sampled import Sampled
from pipeline.labels.codecs.top_k import TopK

__all__ = [
    "CLAMP_NATS",
    "CODECS",
    "DENSE_FP16",
    "Codec",
    "DenseFp16",
    "Sampled",
    "SparseLabels",
    "TopK",
    "codec_from",
    "codec_of",
    "keys_of",
    "log_normalised",
]

CODECS: Mapping[str, type[Codec]] = {"dense_fp16": DenseFp16, "top_k": TopK, "sampled": Sampled}

DENSE_UP_TO_CLASSES = 256
"""`auto` keeps every class up to here, where a dense label takes 512 bytes; see ADR 0002."""


def codec_of(section: LabellingSection, classes: int) -> Codec:
    """What the run file asks shards of so many classes to be written with."""
    name = section.codec
    if name == "auto":
        name = "dense_fp16" if classes <= DENSE_UP_TO_CLASSES else "top_k"
    options = {"dense_fp16": {}, "top_k": {"k": section.codec_k}, "sampled": {"draws": section.codec_draws}}
    return CODECS[name](**options[name])


def keys_of(codec: Codec) -> Mapping[str, str | int]:
    """What `[labelling]` of a run file says for this codec: what `codec_of` reads."""
    options = asdict(codec)
    return {"codec": codec.name} | {f"codec_{name}": options[name] for name in ("k", "draws") if name in options}


def codec_from(name: str, version: int, options: Mapping[str, Any]) -> Codec | None:
    """The codec that a shard says it was written with; None if this reader does not know it, its version or one of its options."""
    kind = CODECS.get(name)
    if kind is None or kind.version != version or set(options) != {field.name for field in fields(kind)}:
        return None
    try:
        return kind(**options)
    except (TypeError, ValueError):
        return None

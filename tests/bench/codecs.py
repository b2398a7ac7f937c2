"""codecs: bytes a sample and error of each label codec, for 2, 10, 150 and 1,000 classes, against Parquet zstd of the same in float32.

There is no teacher here: answers are the softmax of normal logits whose spread differs from row to row (1 to 6), so that some are nearly
flat and some nearly certain. A teacher of your own is measured by `pipeline.labels.advice`.
"""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.labels.advice import measure
from pipeline.labels.codecs import Codec, DenseFp16, Sampled, TopK, log_normalised
from tests.bench.compare import Comparison, alone

ROWS = 4_000
CLASSES = (2, 10, 150, 1_000)
CODECS: tuple[Codec, ...] = (DenseFp16(), TopK(k=16), TopK(k=64), Sampled(draws=64), Sampled(draws=255))


def run() -> list[Comparison]:
    """Cases: bytes of each codec against Parquet, then its errors, by number of classes."""
    found = []
    for classes in CLASSES:
        probe_NK = probe(classes)
        parquet = _parquet_bytes(probe_NK) / ROWS
        for codec in CODECS:
            if isinstance(codec, TopK) and codec.k >= classes:
                continue  # that is the dense codec
            measured = measure(probe_NK, codec)
            case = f"{classes} classes, {codec.name}{_size(codec)}"
            found.append(
                Comparison(
                    name="codecs",
                    case=case,
                    figure=measured.bytes_per_sample,
                    unit="bytes a sample",
                    against="parquet zstd fp32",
                    against_figure=parquet,
                    ratio=measured.bytes_per_sample / parquet,
                    n=1,
                    spread=None,
                )
            )
            errors = {"mean KL, nats": measured.kl_mean_nats, "p99 KL, nats": measured.kl_p99_nats}
            errors |= {"top-1 agreement": measured.agreement, "gap of the means": measured.mean_gap}
            found += [alone(name="codecs", case=f"{case}: {what}", unit="", figure=value, n=ROWS) for what, value in errors.items()]
    return found


def probe(classes: int) -> NDArray[np.float32]:
    """Log-probabilities float32 [ROWS, classes]."""
    chance = np.random.default_rng(7)
    spread_N1 = chance.uniform(1, 6, (ROWS, 1))
    return log_normalised((chance.normal(0, 1, (ROWS, classes)) * spread_N1).astype(np.float32))


def _size(codec: Codec) -> str:
    return f" k={codec.k}" if isinstance(codec, TopK) else f" draws={codec.draws}" if isinstance(codec, Sampled) else ""


def _parquet_bytes(log_probs_NK: NDArray[np.float32]) -> int:
    column = pa.FixedSizeListArray.from_arrays(pa.array(log_probs_NK.reshape(-1)), log_probs_NK.shape[1])
    written = io.BytesIO()
    pq.write_table(pa.table({"log_probs": column}), written, compression="zstd")
    return written.tell()

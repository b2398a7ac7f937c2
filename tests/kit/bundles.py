"""Tiny students for tests: ONNX graphs with one external weights file, bundles of them, and a whole repository.

The text student adds a row of a 256 x K table per byte, so that any answer can be computed by hand; the floats student is one matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pipeline.releases.bundle import BundleFile, build_bundle
from pipeline.releases.keys import ONLINE
from pipeline.releases.manifest import BundleManifest, Golden, GoldenTolerance, InputKind, InputSpec
from pipeline.releases.online import OnlineRepository
from pipeline.releases.repository import create_repository
from pipeline.releases.signer import ReleaseSigner
from pipeline.releases.target import ReleaseTarget, target_path
from workers.driver.shrinking import write_deltas

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)
CLASSES = ("ham", "spam")
TEXTS = ("hello there", "buy now!!!", "meeting at noon", "win $$$ today", "x" * 100)


def text_table(seed: int = 1, classes: int = 2) -> NDArray[np.float32]:
    """The weights of a text student: what each byte adds to each class."""
    table = np.random.default_rng(seed).normal(0, 0.3, (256, classes)).astype(np.float32)
    table[0] = 0  # padding
    return table


def moved_table(seed: int = 1, *, rows: int = 3) -> NDArray[np.float32]:
    """The table of `seed` after a little more training: some rows of it changed."""
    table = text_table(seed)
    table[ord("a") : ord("a") + rows] += 0.125
    return table


def text_probabilities(text: str, table: NDArray[np.float32], *, width: int = 64, temperature: float = 1.0) -> tuple[float, ...]:
    """What a text student must answer, computed without ONNX."""
    logits = table[list(text.encode()[:width])].sum(axis=0) / temperature
    shifted = np.exp(logits - logits.max())
    return tuple(float(p) for p in shifted / shifted.sum())


def write_student(folder: Path, *, kind: InputKind, weights: NDArray[np.float32], width: int) -> tuple[Path, Path]:
    """graph.onnx and weights.bin. Text: weights [256, K]; floats: weights [width, K]."""
    folder.mkdir(parents=True, exist_ok=True)
    data = weights.astype(np.float32).tobytes()
    (folder / "weights.bin").write_bytes(data)
    tensor = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=weights.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(len(data)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    if kind == "text":
        axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
        nodes = [
            helper.make_node("Cast", ["x"], ["ids"], to=TensorProto.INT32),
            helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0),
            helper.make_node("ReduceSum", ["rows", "axes"], ["logits"], keepdims=0),
        ]
        inputs, initializers = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["B", width])], [tensor, axes]
    else:
        nodes = [helper.make_node("MatMul", ["x", "table"], ["logits"])]
        inputs, initializers = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", width])], [tensor]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", weights.shape[1]])]
    graph = helper.make_graph(nodes, "student", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "graph.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(folder / "graph.onnx"))
    return folder / "graph.onnx", folder / "weights.bin"


def text_manifest(*, release: int = 1, student: str = "small", temperature: float = 1.0, width: int = 64) -> BundleManifest:
    return BundleManifest(
        student=student,
        release=release,
        classes=CLASSES,
        input=InputSpec(kind="text", name="x", width=width),
        temperature=temperature,
        positive="spam",
        teacher="teacher-1",
        memory_bytes=1 << 20,
        tolerance=GoldenTolerance(max_probability_difference=0.01),
    )


def text_bundle(
    folder: Path,
    *,
    release: int = 1,
    seed: int = 1,
    student: str = "small",
    golden: Sequence[Golden] | None = None,
    temperature: float = 1.0,
    table: NDArray[np.float32] | None = None,
) -> BundleFile:
    """A bundle whose golden answers are right unless `golden` says otherwise. `table` stands in for that of `seed`."""
    folder.mkdir(parents=True, exist_ok=True)
    table = text_table(seed) if table is None else table
    manifest = text_manifest(release=release, student=student, temperature=temperature)
    graph, weights = write_student(folder / f"parts-{student}-{release}-{seed}", kind="text", weights=table, width=64)
    right = [Golden(input=t, probabilities=text_probabilities(t, table, temperature=temperature)) for t in TEXTS]
    out = folder / f"{student}-{release:06d}.kdpb"
    return build_bundle(out, manifest=manifest, graph=graph, weights=weights, golden=golden or right)


def numbers_bundle(folder: Path, weights: NDArray[np.float32]) -> BundleFile:
    """A bundle of a student of numbers, `weights` [width, 2]: its logits are the row times them."""
    folder.mkdir(parents=True, exist_ok=True)
    width = len(weights)
    manifest = replace(text_manifest(), input=InputSpec(kind="floats", name="x", width=width))
    graph, data = write_student(folder / "parts-numbers", kind="floats", weights=weights, width=width)
    golden = [Golden(input=(0.0,) * width, probabilities=(0.5, 0.5))]
    return build_bundle(folder / "numbers.kdpb", manifest=manifest, graph=graph, weights=data, golden=golden)


def wrong_golden(seed: int = 1) -> list[Golden]:
    """Answers that the student of this seed does not give."""
    return [Golden(input=t, probabilities=tuple(reversed(text_probabilities(t, text_table(seed))))) for t in TEXTS]


def target_of(bundle: BundleFile, *, student: str = "small", release: int = 1, **changes: object) -> ReleaseTarget:
    fields: Mapping[str, object] = {
        "path": target_path(student, release),
        "digest": bundle.sha256,
        "length": bundle.length,
        "student": student,
        "release": release,
        "generation": release,
        "security_floor": 1,
        "memory_bytes": 1 << 20,
        **changes,
    }
    return ReleaseTarget(**fields)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Trust:
    """A repository with all of its keys, in a folder."""

    keys: Path
    repository: Path

    @classmethod
    def make(cls, folder: Path, *, now: datetime = NOW) -> "Trust":
        create_repository(folder / "keys", folder / "repository", now=now)
        return cls(folder / "keys", folder / "repository")

    def signer(self) -> ReleaseSigner:
        return ReleaseSigner.open(self.keys)

    def online(self) -> OnlineRepository:
        return OnlineRepository(self.repository, self.keys / ONLINE)

    def root(self) -> bytes:
        return (self.repository / "metadata" / "1.root.json").read_bytes()

    def publish(
        self,
        bundle: BundleFile,
        *,
        student: str = "small",
        release: int = 1,
        now: datetime = NOW,
        deltas_from: Sequence[BundleFile] = (),
        **changes: object,
    ) -> ReleaseTarget:
        """Sign and publish a copy of a bundle; with `deltas_from`, deltas to it, and one from nothing, too."""
        made = self.keys.parent / "deltas"
        deltas = write_deltas(made, bundle, {base.sha256: base.path for base in deltas_from}) if deltas_from else ()
        target = target_of(bundle, student=student, release=release, **{"deltas": deltas, **changes})
        metadata = self.signer().add(target, now=now)
        online = self.online()
        for path in (*(made / delta.digest for delta in deltas), bundle.path):
            upload = online.upload_path(bundle.sha256[:16])
            upload.write_bytes(path.read_bytes())
            online.publish(metadata, upload, now=now)
        return target

"""Students that are well-formed, rightly signed and bad: they hang, or want more memory than any device has.

Each takes text [B, 64] and gives two logits, as `kit.bundles`' students do, so that nothing but running one shows what it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from pipeline.releases.bundle import BundleFile, build_bundle
from pipeline.releases.manifest import Golden
from tests.kit.bundles import TEXTS, text_manifest

FOREVER = 1 << 60
HUGE_ELEMENTS = 1 << 33


def hanging_bundle(folder: Path, *, release: int) -> BundleFile:
    """Its graph loops until it is killed, and believes every golden answer."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still_on"]),
            helper.make_node("Mul", ["carried", "half"], ["shrunk"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["B", 2]),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("shrunk", TensorProto.FLOAT, ["B", 2]),
        ],
        [numpy_helper.from_array(np.float32(0.5), "half")],
    )
    constants = {"trips": np.int64(FOREVER), "yes": np.bool_(True)}
    return _bundle(folder, release, [helper.make_node("Loop", ["trips", "yes", "logits0"], ["logits"], body=body)], constants)


def bloated_bundle(folder: Path, *, release: int) -> BundleFile:
    """Its graph asks for 32 GiB to answer one sample."""
    constants = {"huge": np.array([HUGE_ELEMENTS // 2, 1, 2], dtype=np.int64), "axes": np.array([0], dtype=np.int64)}
    nodes = [
        helper.make_node("Expand", ["logits0", "huge"], ["blown"]),
        helper.make_node("ReduceMean", ["blown", "axes"], ["logits"], keepdims=0),
    ]
    return _bundle(folder, release, nodes, constants)


def _bundle(folder: Path, release: int, nodes: list[NodeProto], constants: Mapping[str, Any]) -> BundleFile:
    folder.mkdir(parents=True, exist_ok=True)
    weights = np.zeros((64, 2), dtype=np.float32).tobytes()
    (folder / "weights.bin").write_bytes(weights)
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=(64, 2), data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(len(weights)))):
        entry = table.external_data.add()
        entry.key, entry.value = key, value
    first = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("MatMul", ["f", "table"], ["logits0"])]
    graph = helper.make_graph(
        [*first, *nodes],
        "student",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["B", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 2])],
        [table, *(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (folder / "graph.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(folder / "graph.onnx"))
    golden = [Golden(input=text, probabilities=(0.5, 0.5)) for text in TEXTS]
    return build_bundle(
        folder / f"bad-{release}.kdpb",
        manifest=text_manifest(release=release),
        graph=folder / "graph.onnx",
        weights=folder / "weights.bin",
        golden=golden,
    )

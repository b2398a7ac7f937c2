"""Graphs that kdpipe did not export: their size is that of all their files, and one that does not answer in logits is refused in a line."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.students.evaluation import size_of


def write_graph(path: Path, nodes: list[onnx.NodeProto], *, batch: int | str = "B", external: str = "", **values: np.ndarray) -> Path:
    """A graph of four numbers `x` whose output is `y`; `values` are its initialisers, in the file `external` where that is named."""
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    graph.output[0].ClearField("type")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save_model(model, str(path), save_as_external_data=bool(external), location=external or None, size_threshold=0)
    return path


def test_a_files_size_is_that_of_all_its_files_and_of_no_other(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = write_graph(tmp_path / "net.onnx", nodes, external="net.onnx.data", w=np.ones((4, 1000), np.float32))
    (tmp_path / "weights.bin").write_bytes(bytes(5000))
    assert size_of(graph) == graph.stat().st_size + 16_000

"""Graphs that kdpipe did not export: their size is that of all their files, and one that does not answer in logits is refused in a line."""

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.distill.metrics import log_softmax
from pipeline.students.answering import are_probabilities
from pipeline.students.evaluation import size_of
from pipeline.students.graph import Graph, GraphInvalidError


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


WEIGHTS = np.arange(8, dtype=np.float32).reshape(4, 2)
ROWS = [tuple(map(float, row)) for row in np.random.default_rng(1).normal(size=(70, 4))]
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"])
SCORES = helper.make_node("MatMul", ["x", "w"], ["scores"])


@pytest.mark.parametrize("batch", ["B", 1])
def test_a_graph_of_one_row_or_of_any_number_answers_them_all(tmp_path: Path, batch: int | str) -> None:
    graph = Graph(write_graph(tmp_path / "net.onnx", [PRODUCT], batch=batch, w=WEIGHTS), kind="floats")
    np.testing.assert_allclose(graph.logits(ROWS), np.array(ROWS, np.float32) @ WEIGHTS, rtol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (
            [SCORES, helper.make_node("ReduceMax", ["scores"], ["y"], keepdims=0)],
            r"gives float32 of shape \[\] for 64 rows; expected log",
        ),
        ([SCORES, helper.make_node("ArgMax", ["scores"], ["y"], axis=1, keepdims=0)], r"\(of y\) gives int64 of shape \[64\] for 64 rows"),
        ([SCORES, helper.make_node("Unsqueeze", ["scores", "last"], ["y"])], r"gives float32 of shape \[64, 2, 1\] for 64 rows"),
        ([SCORES, helper.make_node("Reshape", ["scores", "one"], ["y"])], r"fails on 64 rows \(\w+ .*a dynamic batch axis$"),
    ],
    ids=["a scalar", "labels", "another axis", "a batch fixed inside"],
)
def test_answers_that_are_no_logits_are_refused_by_what_they_are(tmp_path: Path, nodes: list[onnx.NodeProto], says: str) -> None:
    graph = Graph(write_graph(tmp_path / "net.onnx", nodes, w=WEIGHTS, last=np.array([2]), one=np.array([1, 2])), kind="floats")
    with pytest.raises(GraphInvalidError, match=says) as refused:
        graph.logits(ROWS)
    assert "\n" not in str(refused.value)
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


def test_a_batch_that_is_fixed_to_some_number_is_refused_at_once(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "net.onnx", [PRODUCT], batch=64, w=WEIGHTS)
    with pytest.raises(GraphInvalidError, match=r"an input of exactly 64 rows; expected one of any number of rows, or of 1"):
        Graph(graph, kind="floats")


def test_probabilities_are_known_from_logits() -> None:
    logits_NK = np.array([[3.0, -1.0], [0.25, 0.75]])
    assert not are_probabilities(logits_NK)
    assert not are_probabilities(log_softmax(logits_NK))
    assert not are_probabilities(np.full((3, 2), np.nan))
    assert are_probabilities(np.exp(log_softmax(logits_NK)).astype(np.float16))

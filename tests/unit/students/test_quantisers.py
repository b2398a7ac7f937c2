"""How much of a file is int8: what its weights are, not what the quantiser was asked for."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import pipeline.students.export as export
from pipeline.students.export import export_student
from pipeline.students.models import MODELS, Student, StudentBuildError, build_student
from pipeline.students.onnx_file import to_onnx
from pipeline.students.quantisers import held
from tests.kit.students import numbers, spec


def model(nodes: list[onnx.NodeProto], **values: np.ndarray) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in values.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    return helper.make_model(helper.make_graph(nodes, "g", [], outputs, initializers))


def rounded(name: str, codes: int) -> dict[str, np.ndarray]:
    return {
        f"{name}_quantized": np.zeros(codes, np.int8),
        f"{name}_scale": np.ones(1, np.float32),
        f"{name}_zero_point": np.zeros(1, np.int8),
    }


def test_codes_count_against_floats_but_not_scales_shapes_and_what_was_to_stay() -> None:
    nodes = [
        helper.make_node("Reshape", ["r", "shape"], ["r2"]),
        helper.make_node("GRU", ["x", "r2", "logit_scale"], ["h"]),
        helper.make_node("MatMul", ["h", "front"], ["y"], name="front"),
    ]
    floats = {name: np.zeros(size, np.float32) for name, size in (("r", 60), ("logit_scale", 10), ("front", 1000))}
    found = held(model(nodes, shape=np.array([60]), **floats, **rounded("head", 30)), ["front"])
    assert found.int8_share == pytest.approx(30 / 100)
    assert str(found) == "30 % of the weights: GRU in floats"
    assert held(model(nodes, **floats), ["front"]).int8_share == 0


class Recurrent(nn.Module):
    float_parts: tuple[str, ...] = ()

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.features = 4
        self.rnn, self.head = nn.GRU(1, 16, batch_first=True), nn.Linear(16, classes)

    def forward(self, x_BF: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.rnn(x_BF[:, :, None])[0][:, -1]))


def test_a_net_that_the_quantisers_pass_over_ships_as_the_floats_that_it_is_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    student = Student(module=Recurrent(), kind="floats", width=4, jitter_bytes=0)
    plain, floats = to_onnx("own", student)
    monkeypatch.setattr(export, "to_onnx", lambda *_: (onnx.ModelProto.FromString(plain.SerializeToString()), floats))
    samples = {"fit": numbers(40, seed=2), "choose": numbers(40, seed=3)}
    found = export_student(name="own", student=student, out=tmp_path / "whole", **samples)  # type: ignore[arg-type]
    assert (found.quantisation, found.int8_share) == ("fp32", 0.0)
    assert found.reason.startswith("int8 rounds 3 % of the weights: GRU in floats; int8-dynamic rounds 3 % of the weights: GRU")
    monkeypatch.setattr(export, "INT8_SHARE_MIN", 0.02)
    partly = export_student(name="own", student=student, out=tmp_path / "partly", budget=1.0, **samples)  # type: ignore[arg-type]
    assert partly.quantisation == "int8"
    assert partly.notes == ["exported as int8: int8 holds 3 % of the weights: GRU in floats"]
    assert partly.int8_share == pytest.approx(32 / (32 + 16 * 3 * (1 + 16 + 2)), abs=0.01)


@pytest.mark.parametrize(("parts", "named"), [(("rnn", "haed"), "'haed'"), ("rnn", "'rnn'")])
def test_float_parts_that_are_no_submodules_are_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...] | str, named: str
) -> None:
    own = type("Own", (Recurrent,), {"float_parts": parts})
    monkeypatch.setitem(MODELS, "own", own)
    with pytest.raises(StudentBuildError, match=rf"students.small.use: own has float_parts with {named}; expected a tuple .*: rnn, head;"):
        build_student(spec(kind="floats", use="own", options={}))

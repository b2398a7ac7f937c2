"""What ships: a fixed graph, one blob, int8 that says the same as the module, nothing of this machine."""

import json
import logging
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import pipeline.students.export as export
from pipeline.distill.metrics import accuracy, log_softmax
from pipeline.files import write_atomic
from pipeline.releases.golden import golden_misses
from pipeline.releases.manifest import Golden, GoldenTolerance
from pipeline.students.export import Exported, export_student
from pipeline.students.faults import AnswersNotFiniteError
from pipeline.students.graph import Graph, GraphInvalidError
from pipeline.students.models import Student, build_student
from pipeline.students.onnx_file import ExportError, quantiser_kept_off_the_root_logger, to_onnx
from tests.kit.students import finish, mails, numbers, reader_of, spec, trainer_of
from workers.driver.judging import golden_samples


@pytest.fixture(scope="module")
def taught() -> Student:
    trainer, student = trainer_of(spec(steps=150), reader_of(mails(200)))
    finish(trainer)
    return student


@pytest.fixture(scope="module")
def exported(taught: Student, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp("exported")
    return export_student(name="small", student=taught, fit=mails(80, seed=2), choose=mails(80, seed=3), out=out)


@pytest.fixture
def _exported_once(taught: Student, monkeypatch: pytest.MonkeyPatch, graph_of_taught: bytes) -> None:
    """Takes torch's exporter, two seconds a call, out of tests that are about what follows it."""
    monkeypatch.setattr(export, "to_onnx", lambda *_: (onnx.load_from_string(graph_of_taught), []))


@pytest.fixture(scope="module")
def graph_of_taught(taught: Student) -> bytes:
    data: bytes = to_onnx("small", taught)[0].SerializeToString()
    return data


def test_the_int8_file_says_what_the_module_says(taught: Student, exported: Exported) -> None:
    assert (exported.quantisation, exported.reason) == ("int8", "")
    assert exported.parity.samples == 80
    assert exported.parity.agreement == 1.0
    assert exported.parity.max_log_prob_difference < 0.2
    test = mails(100, seed=4)
    logits = Graph(exported.graph, kind="text").logits(test.inputs)
    assert accuracy(logits, test.hard_N) > 0.95
    assert (exported.input_name, exported.width, exported.kind, exported.parameters) == ("input", 32, "text", taught.parameters)
    types = {tensor.data_type for tensor in onnx.load(str(exported.graph)).graph.initializer}
    assert onnx.TensorProto.INT8 in types


def test_one_answer_does_not_depend_on_the_batch_it_came_in(exported: Exported) -> None:
    graph, texts = Graph(exported.graph, kind="text"), mails(9, seed=5).inputs
    together = graph.logits(texts)
    alone = np.concatenate([graph.logits([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_every_trained_value_is_in_the_one_blob_beside_the_graph(exported: Exported) -> None:
    assert sorted(path.name for path in exported.graph.parent.iterdir()) == ["graph.onnx", "weights.bin"]
    model = onnx.load(str(exported.graph), load_external_data=False)
    inside = [t for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    assert all(tensor.data_type == onnx.TensorProto.INT64 for tensor in inside)
    spans = []
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            found = {entry.key: entry.value for entry in tensor.external_data}
            assert found["location"] == "weights.bin"
            assert int(found["offset"]) % 16 == 0
            spans.append((int(found["offset"]), int(found["length"])))
    spans.sort()
    assert all(a + length <= b for (a, length), (b, _) in pairwise(spans))
    assert sum(spans[-1]) == exported.weights.stat().st_size


def test_two_trainings_differ_in_the_blob_alone_and_one_exports_to_the_same_bytes_twice(
    taught: Student, exported: Exported, tmp_path: Path
) -> None:
    options = {"fit": mails(80, seed=2), "choose": mails(80, seed=3)}
    again = export_student(name="small", student=taught, out=tmp_path / "again", **options)  # type: ignore[arg-type]
    assert again.graph.read_bytes() == exported.graph.read_bytes()
    assert again.weights.read_bytes() == exported.weights.read_bytes()
    trainer, another = trainer_of(spec(seed=9, steps=100), reader_of(mails(150, seed=7)))
    finish(trainer)
    other = export_student(name="other", student=another, out=tmp_path / "other", **options)  # type: ignore[arg-type]
    assert other.graph.read_bytes() == exported.graph.read_bytes()
    assert other.weights.read_bytes() != exported.weights.read_bytes()


def test_the_graph_tells_nothing_about_where_it_was_made(exported: Exported) -> None:
    data = exported.graph.read_bytes()
    for trace in (b"/", b"stack_trace", b"pytorch", b".py"):
        assert trace not in data.replace(b"onnx.ai", b""), trace


@pytest.mark.usefixtures("_exported_once")
def test_what_loses_too_much_in_int8_ships_in_another_form_and_says_why(
    taught: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = {"fit": mails(40, seed=2), "choose": mails(40, seed=3)}
    losses = iter([0.02, 0.0])
    monkeypatch.setattr(export, "loss_of", lambda *_: next(losses))
    monkeypatch.setattr(export, "NATS_LOST", -1.0)
    found = export_student(name="small", student=taught, out=tmp_path / "dynamic", **samples)  # type: ignore[arg-type]
    assert found.quantisation == "int8-dynamic"
    assert found.reason.startswith("int8 loses 0.0200 on choose, more than 0.0050; int8-dynamic holds 18 % of the weights: Gather")
    losses = iter([0.02, 0.03])
    found = export_student(name="small", student=taught, out=tmp_path / "plain", **samples)  # type: ignore[arg-type]
    assert found.quantisation == "fp32"
    assert found.reason == "int8 loses 0.0200 on choose, more than 0.0050; int8-dynamic loses 0.0300 on choose, more than 0.0050"
    assert found.parity.max_log_prob_difference < 1e-4


@pytest.mark.usefixtures("_exported_once")
def test_a_loss_that_may_be_chance_is_none_where_the_answers_are_the_same_and_is_told(
    taught: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "loss_of", lambda *_: 0.01)  # one sample of a hundred
    samples = {"fit": mails(40, seed=2), "choose": mails(40, seed=3)}
    found = export_student(name="small", student=taught, out=tmp_path, **samples)  # type: ignore[arg-type]
    assert found.quantisation == "int8"
    assert re.fullmatch(r"int8 loses 0.0100 on choose, more than 0.0050, which may be chance .* 0.00\d\d nats off", found.reason)


def test_golden_samples_hold_what_the_student_reads_and_the_file_gives_their_answers(exported: Exported) -> None:
    mail = mails(20, seed=5)
    long = replace(mail, inputs=tuple(text * 9 + "\u00e9" for text in mail.inputs))
    golden = [Golden(input=g["input"], probabilities=tuple(g["probabilities"])) for g in golden_samples(exported, long)]
    assert {len(sample.input) for sample in golden} == {exported.width}
    logits = Graph(exported.graph, kind="text").logits([sample.input for sample in golden])
    tolerance = GoldenTolerance(max_probability_difference=0.001)
    assert golden_misses(golden, np.exp(log_softmax(logits / exported.temperature)), tolerance) is None


def test_numbers_export_as_text_does(tmp_path: Path) -> None:
    made = spec(use="mlp", options={"features": 4, "width": 16}, kind="floats", steps=150)
    trainer, student = trainer_of(made, reader_of(numbers(200)))
    finish(trainer)
    found = export_student(name="mlp", student=student, fit=numbers(60, seed=2), choose=numbers(60, seed=3), out=tmp_path)
    test = numbers(100, seed=4)
    assert accuracy(Graph(found.graph, kind="floats").logits(test.inputs), test.hard_N) > 0.9
    assert found.quantisation == "int8"


@pytest.mark.usefixtures("_exported_once")
def test_the_temperature_is_fitted_on_the_teacher_where_no_labels_are(taught: Student, tmp_path: Path) -> None:
    found = export_student(
        name="small", student=taught, fit=mails(80, seed=2, hard=False), choose=mails(80, seed=3, hard=False), out=tmp_path
    )
    assert 0.3 < found.temperature < 3


def test_a_module_that_no_graph_can_hold_is_refused_by_what_is_wrong_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = build_student(spec())

    class Loops(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while x.float().sum() > 0:
                x = x - 1
            return x.float()[:, :2]

    broken = Student(module=Loops(), kind="text", width=student.width, jitter_bytes=0)
    with pytest.raises(ExportError, match=r"student small: its module does not export to ONNX \(GuardOnDataDependent"):
        export_student(name="small", student=broken, fit=mails(8), choose=mails(8), out=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert "def forward" not in capsys.readouterr().err, "the exporter's own dump"


class Blind(torch.nn.Module):
    """Says nothing of texts that begin with a 4."""

    def __init__(self, student: torch.nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, :1] == ord("4"), torch.nan, self.student(x))


@pytest.mark.usefixtures("_exported_once")
def test_a_module_that_answers_some_sample_with_no_number_is_not_shipped(taught: Student, tmp_path: Path) -> None:
    blind, choose = replace(taught, module=Blind(taught.module)), mails(80, seed=3)
    first = next(name for name, text in zip(choose.ids, choose.inputs, strict=True) if text.startswith("4"))
    with pytest.raises(AnswersNotFiniteError, match=rf"student small: trained, it answers \d+ of 80 .*sample {first}$"):
        export_student(name="small", student=blind, fit=mails(8), choose=choose, out=tmp_path)


@pytest.mark.usefixtures("_exported_once")
def test_an_int8_file_that_answers_with_no_number_makes_way_for_another(
    taught: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(plain: Path, path: Path, *_: object) -> None:
        model = onnx.load(str(plain))
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))
        onnx.save_model(model, str(path))

    monkeypatch.setattr(export, "static_int8", poisoned)
    found = export_student(name="small", student=taught, fit=mails(8), choose=mails(80, seed=3), out=tmp_path, budget=1.0)
    assert found.quantisation == "int8-dynamic"
    assert found.reason.startswith("int8 answers 80 samples of choose with no finite numbers; ")


@pytest.mark.usefixtures("_exported_once")
def test_a_crash_between_the_two_files_leaves_no_graph(taught: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = write_atomic, []

    def dies_before_the_graph(path: Path, data: bytes) -> None:
        if path.name == "graph.onnx":
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, data)

    (tmp_path / "graph.onnx").write_bytes(b"of an earlier export")
    monkeypatch.setattr(export, "write_atomic", dies_before_the_graph)
    with pytest.raises(KeyboardInterrupt):
        export_student(name="small", student=taught, fit=mails(40, seed=2), choose=mails(40, seed=3), out=tmp_path)
    assert written == ["weights.bin"]
    assert not (tmp_path / "graph.onnx").exists()


@pytest.mark.parametrize("damage", ["graph", "weights", "kind"])
def test_a_damaged_or_foreign_graph_is_refused(exported: Exported, tmp_path: Path, damage: str) -> None:
    for path in (exported.graph, exported.weights):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if damage == "graph":
        (tmp_path / "graph.onnx").write_bytes(exported.graph.read_bytes()[:100])
    if damage == "weights":
        (tmp_path / "weights.bin").write_bytes(exported.weights.read_bytes()[:100])
    with pytest.raises(GraphInvalidError):
        Graph(tmp_path / "graph.onnx", kind="floats" if damage == "kind" else "text")


def test_parity_is_json(exported: Exported) -> None:
    json.dumps(vars(exported.parity), allow_nan=False)


def test_the_quantiser_says_nothing_through_the_root_logger(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    def advise() -> None:
        root.handle(root.makeRecord("root", logging.WARNING, "/x/onnxruntime/quantization/quantize.py", 1, "pre-process!", (), None))

    root = logging.getLogger()
    handlers, filters = list(root.handlers), list(root.filters)
    caplog.set_level(logging.DEBUG, logger="pipeline")
    with quantiser_kept_off_the_root_logger():
        advise()
        logging.warning("of a user's module")  # noqa: LOG015 - as others do
    assert [(record.name, record.message) for record in caplog.records] == [
        ("pipeline.students.onnx_file", "the quantiser says"),
        ("root", "of a user's module"),
    ]
    assert (root.handlers, root.filters) == (handlers, filters)
    assert "pre-process" not in "".join(capfd.readouterr())
    advise()
    assert caplog.records[-1].message == "pre-process!", "only while it quantises"

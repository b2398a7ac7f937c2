"""Teachers that kdpipe runs itself: ONNX, torch modules, exported programs, transformers. Tiny models, made here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.config import TeacherSection
from pipeline.teachers import Teacher, load_teacher
from pipeline.teachers.teacher import TeacherLoadError, batches_of
from pipeline.teachers.transformers import by_length
from tests.kit.text_models import write_bert

CLASSES = ("ham", "spam", "news")
ROWS = np.random.default_rng(3).normal(size=(10, 4)).astype(np.float32)
INPUTS = pa.array(list(ROWS), pa.list_(pa.float32()))
TEXTS = ["free money", "see the agenda of the meeting tomorrow", "a", "", "news " * 40]


def load(base: Path, classes: tuple[str, ...] = CLASSES, **section: Any) -> Teacher:
    return load_teacher(TeacherSection.model_validate(section), classes=classes, base=base)


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = torch.nn.Linear(4, 3)
        self.noise = torch.nn.Dropout(0.5)

    def forward(self, rows_BF: torch.Tensor) -> torch.Tensor:
        return self.noise(self.layer(rows_BF))


def expected() -> np.ndarray:
    with torch.inference_mode():
        return torch.log_softmax(Linear().eval()(torch.from_numpy(ROWS)), dim=1).numpy()


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(Linear().eval(), (torch.from_numpy(ROWS),), path, dynamo=True, dynamic_shapes={"rows_BF": {0: batch}}, verbose=False)
    return path


def test_an_onnx_file_answers_in_the_run_files_order(onnx_file):
    teacher = load(onnx_file.parent, use="onnx", path="teacher.onnx")
    np.testing.assert_allclose(teacher.log_probs(INPUTS), expected(), atol=1e-5)
    turned = load(onnx_file.parent, ("news", "ham", "spam"), use="onnx", path="teacher.onnx", options={"classes": CLASSES})
    np.testing.assert_allclose(turned.log_probs(INPUTS), expected()[:, [2, 0, 1]], atol=1e-5)


def test_classes_in_an_onnx_files_metadata_count(onnx_file):
    model = onnx.load(onnx_file)
    onnx.helper.set_model_props(model, {"classes": json.dumps(["spam", "ham", "news"])})
    onnx.save(model, onnx_file)
    teacher = load(onnx_file.parent, use="onnx", path="teacher.onnx")
    np.testing.assert_allclose(teacher.log_probs(INPUTS), expected()[:, [1, 0, 2]], atol=1e-5)


def test_a_graph_that_eats_strings_is_given_strings(tmp_path):
    helper, kind = onnx.helper, onnx.TensorProto
    encoder = helper.make_node(
        "LabelEncoder", ["text"], ["score"], domain="ai.onnx.ml", keys_strings=["free", "hello"], values_floats=[2.0, -2.0]
    )
    graph = helper.make_graph(
        [encoder],
        "g",
        [helper.make_tensor_value_info("text", kind.STRING, ["B", 1])],
        [helper.make_tensor_value_info("score", kind.FLOAT, ["B", 1])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 4)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "text.onnx")
    teacher = load(tmp_path, ("ham", "spam"), use="onnx", path="text.onnx")
    np.testing.assert_allclose(np.exp(teacher.log_probs(pa.array(["free", "hello"])))[:, 1], [0.8808, 0.1192], atol=1e-4)


def export_without_bias(path: Path, *, seed: int) -> None:
    torch.manual_seed(seed)
    net = torch.nn.Linear(400, 3, bias=False).eval()  # the exporter keeps small tensors in the graph
    torch.onnx.export(net, (torch.zeros(8, 400),), path, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False)


def test_the_fingerprint_of_an_onnx_file_covers_weights_that_lie_beside_it(tmp_path):
    graphs, found = [], []
    for seed in (1, 1, 2):
        export_without_bias(tmp_path / "teacher.onnx", seed=seed)
        assert (tmp_path / "teacher.onnx.data").is_file(), "the exporter puts tensors into a file of their own"
        graphs.append((tmp_path / "teacher.onnx").read_bytes())
        found.append(load(tmp_path, use="onnx", path="teacher.onnx").fingerprint)
    assert graphs[0] == graphs[2], "the graph alone does not tell the two apart"
    assert found[0] == found[1] != found[2]


def test_tensors_of_inner_graphs_lie_beside_the_file_too(tmp_path):
    helper, kind = onnx.helper, onnx.TensorProto
    scale = helper.make_tensor("scale", kind.FLOAT, [1], [2.0])
    branches = {}
    for name in ("then_branch", "else_branch"):
        constant = helper.make_node("Constant", [], [name], value=scale)
        branches[name] = helper.make_graph([constant], name, [], [helper.make_tensor_value_info(name, kind.FLOAT, [1])])
    inner = branches["then_branch"].node[0].attribute[0].t
    inner.ClearField("float_data")
    inner.data_location = kind.EXTERNAL
    inner.external_data.add(key="location", value="inner.bin")
    graph = helper.make_graph(
        [helper.make_node("If", ["yes"], ["y"], **branches)],
        "g",
        [helper.make_tensor_value_info("yes", kind.BOOL, [])],
        [helper.make_tensor_value_info("y", kind.FLOAT, [1])],
    )
    (tmp_path / "teacher.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(TeacherLoadError, match=r"no file 'inner\.bin' beside it"):
        load(tmp_path, use="onnx", path="teacher.onnx")


@pytest.mark.parametrize("location", ["../secret.data", "/etc/hostname", "link.data"])
def test_weights_outside_the_folder_of_an_onnx_file_are_refused(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    export_without_bias(folder / "teacher.onnx", seed=1)
    (folder / "teacher.onnx.data").rename(tmp_path / "secret.data")
    (folder / "link.data").symlink_to(tmp_path / "secret.data")
    model = onnx.load(folder / "teacher.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(model, folder / "teacher.onnx")
    with pytest.raises(TeacherLoadError, match=f"weights in '{location}'; expected weights in the folder of the graph"):
        load(folder, use="onnx", path="teacher.onnx")


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"path": "none.onnx"}, r"none\.onnx: no file"),
        ({"path": "broken.onnx"}, "does not load"),
        ({"path": "teacher.onnx", "options": {"gives": "odds"}}, "gives = 'odds'; expected one of: logits, log_probs, probs"),
        ({"path": "teacher.onnx", "options": {"output": "x"}}, "no output 'x'; expected one of: "),
        (
            {"path": "teacher.onnx", "options": {"provider": "x"}},
            "unknown option 'provider'; expected one of: classes, gives",
        ),
    ],
)
def test_an_onnx_teacher_that_cannot_be_is_refused(onnx_file, section, problem):
    (onnx_file.parent / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(TeacherLoadError, match=problem):
        load(onnx_file.parent, use="onnx", **section)


@pytest.fixture
def module_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_net_layers.py").write_text("import torch\ndef layer(): return torch.nn.Linear(4, 3)\n")
    (tmp_path / "my_net.py").write_text(
        "import torch\nfrom my_net_layers import layer\n"
        "def make(seed=5):\n    torch.manual_seed(seed)\n    return torch.nn.Sequential(layer(), torch.nn.Dropout(0.5))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_net", "my_net_layers"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return tmp_path


def test_a_torch_module_is_a_teacher_in_evaluation_mode(module_file):
    teacher = load(module_file, use="my_net:make")
    np.testing.assert_allclose(teacher.log_probs(INPUTS), expected(), atol=1e-5)
    np.testing.assert_array_equal(teacher.log_probs(INPUTS), teacher.log_probs(INPUTS))


def test_the_fingerprint_of_a_module_covers_weights_backend_and_the_code_that_it_imports(module_file):
    found = [load(module_file, use="my_net:make").fingerprint for _ in range(2)]
    assert found[0] == found[1]
    found.append(load(module_file, use="my_net:make", options={"seed": 6}).fingerprint)
    found.append(load(module_file, use="my_net:make", precision="bf16").fingerprint)
    with (module_file / "my_net_layers.py").open("a") as code:
        code.write("# changed\n")
    found.append(load(module_file, use="my_net:make").fingerprint)
    assert len(set(found)) == len(found) - 1


def test_bfloat16_is_near_float32(module_file):
    teacher = load(module_file, use="my_net:make", precision="bf16")
    np.testing.assert_allclose(teacher.log_probs(INPUTS), expected(), atol=0.05)


def test_an_exported_program_is_opened_only_if_it_is_trusted(tmp_path):
    program = torch.export.export(Linear().eval(), (torch.from_numpy(ROWS),), dynamic_shapes={"rows_BF": {0: torch.export.Dim("batch")}})
    torch.export.save(program, tmp_path / "teacher.pt2")
    with pytest.raises(TeacherLoadError, match="can run code; expected `trusted = true`"):
        load(tmp_path, use="torch_export", path="teacher.pt2")
    teacher = load(tmp_path, use="torch_export", path="teacher.pt2", options={"trusted": True})
    np.testing.assert_allclose(teacher.log_probs(INPUTS[:7]), expected()[:7], atol=1e-5)
    (tmp_path / "teacher.pt2").write_bytes(b"short")
    with pytest.raises(TeacherLoadError, match="does not load"):
        load(tmp_path, use="torch_export", path="teacher.pt2", options={"trusted": True})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"), classes=CLASSES)


def test_a_classification_head_answers_the_same_alone_and_in_a_batch(bert):
    teacher = load(bert.parent, use="transformers", path=bert.name, options={"max_tokens": 32})
    texts = pa.array(TEXTS[:3] + TEXTS[4:])
    together = teacher.log_probs(texts)
    alone = np.concatenate([teacher.log_probs(texts[place : place + 1]) for place in range(len(texts))])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.exp(together).sum(axis=1), 1, atol=1e-5)


def test_an_encoder_takes_a_head_of_its_own(bert):
    save_file({"weight": torch.eye(3, 16), "bias": torch.zeros(3)}, bert.parent / "head.safetensors")
    teacher = load(bert.parent, use="transformers", path=bert.name, options={"head": "head.safetensors"})
    assert teacher.log_probs(pa.array(["free money", "see"])).shape == (2, 3)
    with pytest.raises(TeacherLoadError, match="is no head"):
        load(bert.parent, use="transformers", path=bert.name, options={"head": f"{bert.name}/config.json"})


def test_weights_that_are_pickles_are_refused(bert, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in bert.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(TeacherLoadError, match=r"expected config\.json, model\.safetensors"):
        load(tmp_path, use="transformers", path="pickled")


def test_a_name_on_the_hub_is_never_fetched(tmp_path):
    with pytest.raises(TeacherLoadError, match="a local folder of save_pretrained"):
        load(tmp_path, use="transformers", path="bert-base-uncased")


def test_texts_of_like_length_go_together_and_every_place_once(bert):
    teacher = load(bert.parent, use="transformers", path=bert.name, options={"tokens_per_batch": 30, "max_tokens": 32})
    batches = batches_of(teacher, pa.array(TEXTS), 64)
    assert sorted(place for batch in batches for place in batch.tolist()) == list(range(len(TEXTS)))
    assert batches[0].tolist() == [4], "the longest alone"


@given(lengths=st.lists(st.integers(1, 300), max_size=60), budget=st.integers(1, 2000))
def test_a_batch_stays_within_its_budget_unless_one_text_is_longer(lengths, budget):
    batches = by_length(np.array(lengths, dtype=np.int64), budget=budget)
    assert sorted(place for batch in batches for place in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= budget

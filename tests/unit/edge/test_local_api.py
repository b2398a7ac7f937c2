"""The local prediction API over its real socket."""

import contextlib
import queue
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from pipeline.rollout.slots import Slots
from tests.kit.bundles import TEXTS, text_bundle, text_probabilities, text_table
from tests.kit.devices import Models
from workers.edge.local_api import MAX_CALLS, MAX_REQUEST_BYTES, MAX_ROWS, LocalApi, LocalServer, Refusal
from workers.edge.local_client import DeviceRefusedError, DeviceSilentError, LocalDevice
from workers.edge.metrics import EdgeMetrics
from workers.edge.serving import Serving
from workers.rpc import local_pb2 as pb
from workers.rpc import local_pb2_grpc as rpc

NO_MODEL = LocalApi(Serving(Models().start), status=pb.GetStatusResponse, metrics=EdgeMetrics(CollectorRegistry()))


class Api:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.models, self.registry = folder, Models(), CollectorRegistry()
        self.serving = Serving(self.models.start)
        api = LocalApi(self.serving, status=lambda: pb.GetStatusResponse(state="IDLE"), metrics=EdgeMetrics(self.registry))
        self.server = LocalServer(folder / "predict.sock", api)
        self.server.start()

    def install(self) -> str:
        bundle = text_bundle(self.folder / "bundles", temperature=2.0)
        self.serving.serve(Slots(self.folder / "slots").stage(bundle.path, bundle.sha256))
        return bundle.sha256


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    made = Api(tmp_path / "device")
    yield made
    made.server.close()


def test_an_answer_names_its_release_and_respects_temperature(api: Api) -> None:
    digest = api.install()
    with LocalDevice(api.folder) as device:
        answer = device.predict(TEXTS)
        again = device.predict(TEXTS[:1])
    assert answer["digest"] == digest
    assert (answer["student"], answer["release"], answer["classes"]) == ("small", 1, ["ham", "spam"])
    for text, row, name in zip(TEXTS, answer["probabilities"], answer["predictions"], strict=True):
        expected = text_probabilities(text, text_table(1), temperature=2.0)
        assert row == pytest.approx(expected, abs=1e-5)
        assert name == ("ham", "spam")[expected[1] > expected[0]]
    assert answer["latency_ms"] > 0
    assert again["probabilities"][0] == answer["probabilities"][0]


def test_without_a_model_the_answer_says_what_to_do(api: Api) -> None:
    with LocalDevice(api.folder) as device, pytest.raises(DeviceRefusedError, match="first rollout") as refused:
        device.predict(["x"])
    assert refused.value.code == "FAILED_PRECONDITION"
    assert api.registry.get_sample_value("kdpipe_edge_predictions_total", {"outcome": "no_model"}) == 1


def test_only_the_owner_can_open_the_socket(api: Api) -> None:
    assert stat.S_IMODE((api.folder / "predict.sock").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (pb.PredictRequest(), f"1 to {MAX_ROWS}"),
        (pb.PredictRequest(texts=["x"] * (MAX_ROWS + 1)), f"1 to {MAX_ROWS}"),
        (pb.PredictRequest(texts=["x"], rows=[pb.Row(values=[1])]), "of one kind"),
        (pb.PredictRequest(rows=[pb.Row(values=[1])]), "expected text"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_a_reason(api: Api, request_: pb.PredictRequest, says: str) -> None:
    api.install()
    with grpc.insecure_channel(f"unix:{api.folder}/predict.sock") as channel, pytest.raises(grpc.RpcError, match=says) as refused:
        rpc.LocalStub(channel).Predict(request_, timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_request_beyond_the_bound_is_refused_and_the_next_is_answered(api: Api) -> None:
    api.install()
    with grpc.insecure_channel(f"unix:{api.folder}/predict.sock") as channel:
        stub = rpc.LocalStub(channel)
        with pytest.raises(grpc.RpcError, match="larger than max"):
            stub.Predict(pb.PredictRequest(texts=["x" * MAX_REQUEST_BYTES]), timeout=10)
        assert stub.Predict(pb.PredictRequest(texts=["x"]), timeout=10).release == 1


@given(st.binary(max_size=200))
def test_bytes_that_are_no_request_end_nothing(body: bytes) -> None:
    with contextlib.suppress(DecodeError):
        answer = NO_MODEL.predict(pb.PredictRequest.FromString(body))
        assert isinstance(answer, Refusal)


@pytest.mark.parametrize("inputs", [[None], [3], ["x", [1.0]], [["a"]]])
def test_what_is_neither_text_nor_numbers_is_refused_before_it_is_sent(api: Api, inputs: list[Any]) -> None:
    with LocalDevice(api.folder) as device, pytest.raises(DeviceRefusedError, match="expected texts"):
        device.predict(inputs)


def test_one_call_too_many_is_told_so_and_the_others_are_answered(api: Api) -> None:
    api.install()
    api.models.hold.clear()
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            ended.put(device.predict(["x"])["student"])
        except DeviceRefusedError as error:
            ended.put(error.code)

    with LocalDevice(api.folder) as device:
        threads = [threading.Thread(target=ask) for _ in range(MAX_CALLS + 4)]
        for thread in threads:
            thread.start()
        assert [ended.get(timeout=20) for _ in range(4)] == ["RESOURCE_EXHAUSTED"] * 4
        api.models.hold.set()
        assert [ended.get(timeout=20) for _ in range(MAX_CALLS)] == ["small"] * MAX_CALLS
        for thread in threads:
            thread.join()
    assert api.registry.get_sample_value("kdpipe_edge_predictions_total", {"outcome": "busy"}) == 4


def test_a_folder_with_a_very_long_path_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 30) / ("name-" * 30)
    made = Api(folder)
    try:
        with LocalDevice(folder) as device:
            assert device.status()["state"] == "IDLE"
    finally:
        made.server.close()


def test_no_agent_is_told_with_the_command_that_starts_one(tmp_path: Path) -> None:
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "certificate.pem").touch()
    with LocalDevice(tmp_path) as device, pytest.raises(DeviceSilentError, match="kdpipe edge run"):
        device.status()


def test_many_callers_at_once_all_get_their_own_answers(api: Api) -> None:
    api.install()
    wrong: list[Any] = []

    def ask(text: str) -> None:
        with LocalDevice(api.folder) as device:
            for _ in range(20):
                row = device.predict([text])["probabilities"][0]
                if row != pytest.approx(text_probabilities(text, text_table(1), temperature=2.0), abs=1e-5):
                    wrong.append((text, row))

    threads = [threading.Thread(target=ask, args=(text,)) for text in TEXTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert api.registry.get_sample_value("kdpipe_edge_predicted_samples_total") == 20 * len(TEXTS)

"""The local prediction API over its real socket."""

import contextlib
import queue
import random
import stat
import threading
from collections.abc import Iterator, Sequence
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
from tests.kit.told_teacher import ToldTeacher
from workers.edge import shadow
from workers.edge.allowance import AskOptions
from workers.edge.asking import MAX_UNDER_WAY, Asking
from workers.edge.inputs import Input
from workers.edge.local_api import MAX_CALLS, MAX_REQUEST_BYTES, MAX_ROWS, LocalApi, LocalServer, Refusal
from workers.edge.local_client import DeviceRefusedError, DeviceSilentError, LocalDevice
from workers.edge.metrics import EdgeMetrics
from workers.edge.serving import Answer, Serving
from workers.rpc import local_pb2 as pb
from workers.rpc import local_pb2_grpc as rpc

NO_MODEL = LocalApi(Serving(Models().start), status=pb.GetStatusResponse, metrics=EdgeMetrics(CollectorRegistry()))


NEVER = AskOptions()


class Api:
    """Asks a teacher where `ask` says so."""

    def __init__(self, folder: Path, ask: AskOptions = NEVER) -> None:
        folder.mkdir(parents=True)
        self.folder, self.models, self.registry = folder, Models(), CollectorRegistry()
        self.serving = Serving(self.models.start)
        self.teacher, metrics = ToldTeacher(), EdgeMetrics(self.registry)
        asking = Asking(ask, line=self.teacher, window=self.serving.window, metrics=metrics, rng=random.Random(1))
        status = lambda: pb.GetStatusResponse(state="IDLE", asking=asking.shown())  # noqa: E731
        self.api = LocalApi(self.serving, status=status, metrics=metrics, asking=asking)
        self.server = LocalServer(folder / "predict.sock", self.api)
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


def test_an_unsure_answer_is_the_teachers_and_says_so(tmp_path: Path) -> None:
    api = Api(tmp_path / "device", AskOptions(below=1.0, per_hour=1e6))
    api.install()
    try:
        with LocalDevice(api.folder) as device:
            answer = device.predict([TEXTS[0]])
            asking = device.status()["asking"]
    finally:
        api.server.close()
    assert (answer["predictions"], answer["probabilities"], answer["by_teacher"]) == (["spam"], [[0.0625, 0.9375]], [True])
    assert (answer["student"], answer["release"]) == ("small", 1)
    assert asking == {"below": 1.0, "share": 0.0, "asked": 1, "answered": 1, "used": 1, "last_failure": ""}
    told = api.serving.window.told()
    assert told is not None
    assert told.confidence_mean == pytest.approx(max(text_probabilities(TEXTS[0], text_table(1), temperature=2.0)), abs=1e-5)


def test_golden_samples_and_shadow_runs_ask_nobody(tmp_path: Path) -> None:
    """What the agent itself asks a model never passes where a caller's inputs do."""
    api = Api(tmp_path / "device", AskOptions(below=1.0, share=1.0))
    api.install()
    try:
        api.serving.predict(TEXTS)
        slot = api.serving.slot
        assert slot is not None
        shadow.compare(api.models.start, incumbent=slot, candidate=slot, live=TEXTS)
    finally:
        api.server.close()
    assert api.teacher.asked == []


def test_calls_that_wait_for_the_teacher_take_no_room_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsure, sure = TEXTS[0], TEXTS[-1]
    mine = [max(text_probabilities(text, text_table(1), temperature=2.0)) for text in (unsure, sure)]
    api = Api(tmp_path / "device", AskOptions(below=(mine[0] + mine[1]) / 2, per_hour=1e6))
    api.install()
    waiting, entered, go = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
    answer = api.serving.predict

    def wait() -> None:
        waiting.release()
        go.wait(20)

    def enter(inputs: Sequence[Input]) -> Answer:
        entered.release()
        return answer(inputs)

    def all_at_once(text: str, count: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=lambda: ended.put(api.api.predict(pb.PredictRequest(texts=[text])))) for _ in range(count)]
        for thread in threads:
            thread.start()
        return threads

    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    api.teacher.on_ask = wait
    threads = all_at_once(unsure, MAX_UNDER_WAY)
    assert all(waiting.acquire(timeout=10) for _ in range(MAX_UNDER_WAY))
    monkeypatch.setattr(api.serving, "predict", enter)
    api.models.hold.clear()
    threads += all_at_once(sure, MAX_CALLS)
    try:
        assert all(entered.acquire(timeout=10) for _ in range(MAX_CALLS)), "each gets to the model"
        api.models.hold.set()
        assert [list(ended.get(timeout=10).by_teacher) for _ in range(MAX_CALLS)] == [[False]] * MAX_CALLS
    finally:
        api.models.hold.set()
        go.set()
        for thread in threads:
            thread.join()
        api.server.close()
    assert [list(ended.get_nowait().by_teacher) for _ in range(MAX_UNDER_WAY)] == [[True]] * MAX_UNDER_WAY


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

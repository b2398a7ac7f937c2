"""The local prediction API over its real socket."""

import contextlib
import json
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from pipeline.rollout.slots import Slots
from tests.kit.bundles import TEXTS, text_bundle, text_probabilities, text_table
from tests.kit.devices import Models
from workers.edge.local_api import MAX_BODY_BYTES, MAX_CONNECTIONS, MAX_ROWS, LocalApi, LocalServer, reachable
from workers.edge.local_client import DeviceRefusedError, DeviceSilentError, LocalDevice
from workers.edge.metrics import EdgeMetrics
from workers.edge.serving import Serving


class Api:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.models, self.registry = folder, Models(), CollectorRegistry()
        self.serving = Serving(self.models.start)
        api = LocalApi(self.serving, status=lambda: {"state": "IDLE"}, metrics=EdgeMetrics(self.registry))
        self.server = LocalServer(folder / "predict.sock", api)
        self.server.start()

    def install(self) -> str:
        bundle = text_bundle(self.folder / "bundles", temperature=2.0)
        self.serving.serve(Slots(self.folder / "slots").stage(bundle.path, bundle.sha256))
        return bundle.sha256

    def raw(self, request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as peer, reachable(self.folder / "predict.sock") as address:
            peer.settimeout(5)
            peer.connect(address)
            with contextlib.suppress(BrokenPipeError):  # refused before it asked: the answer is there all the same
                peer.sendall(request)
            answer = b""
            while piece := peer.recv(65536):
                answer += piece
                head, _, body = answer.partition(b"\r\n\r\n")
                if b"Content-Length: " in head and len(body) >= int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]):
                    break
            return answer


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


def test_without_a_model_the_answer_is_503_and_says_what_to_do(api: Api) -> None:
    with LocalDevice(api.folder) as device, pytest.raises(DeviceRefusedError, match="first rollout") as refused:
        device.predict(["x"])
    assert refused.value.status == 503


def test_only_the_owner_can_open_the_socket(api: Api) -> None:
    assert stat.S_IMODE((api.folder / "predict.sock").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected"),
        (b'{"inputs": []}', f"1 to {MAX_ROWS}"),
        (json.dumps({"inputs": ["x"] * (MAX_ROWS + 1)}).encode(), f"1 to {MAX_ROWS}"),
        (b'{"inputs": ["x"], "extra": 1}', "nothing else"),
        (b'{"inputs": [1]}', "expected text"),
        (b'{"inputs": [null]}', "expected text"),
    ],
)
def test_a_body_that_does_not_fit_is_400_with_a_reason(api: Api, body: bytes, says: str) -> None:
    api.install()
    answer = api.raw(b"POST /predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert says in json.loads(answer.partition(b"\r\n\r\n")[2])["says"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), 413),
        (b"POST /predict HTTP/1.1\r\n\r\n", 411),
        (b"POST /predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 411),
        (b"POST /other HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /status HTTP/1.1\r\n\r\n", 200),
    ],
)
def test_every_request_gets_its_status(api: Api, request_bytes: bytes, status: int) -> None:
    assert api.raw(request_bytes).split(b" ")[1] == str(status).encode()


def test_one_connection_too_many_is_told_so_and_the_others_go_on(api: Api) -> None:
    api.install()
    peers = []
    for _ in range(MAX_CONNECTIONS):
        peer = socket.socket(socket.AF_UNIX)
        with reachable(api.folder / "predict.sock") as address:
            peer.connect(address)
        peer.sendall(b"GET /status HTTP/1.1\r\n\r\n")
        assert peer.recv(100)
        peers.append(peer)
    assert b"503" in api.raw(b"GET /status HTTP/1.1\r\n\r\n")
    body = b'{"inputs": ["x"]}'
    peers[0].recv(65536)
    peers[0].sendall(b"POST /predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert b"200 OK" in peers[0].recv(65536)
    for peer in peers:
        peer.close()


def test_a_folder_with_a_very_long_path_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 30) / ("name-" * 30)
    made = Api(folder)
    try:
        with LocalDevice(folder) as device:
            assert device.status() == {"state": "IDLE"}
    finally:
        made.server.close()


def test_no_agent_is_told_with_the_command_that_starts_one(tmp_path: Path) -> None:
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

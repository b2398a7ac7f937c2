"""An OpenAI-compatible server on loopback, for tests: real HTTP, the answers' real shape, and faults as method calls.

What the model says is a function of the whole prompt: token -> probability of coming next. Answers have the `top_logprobs` most likely.
"""

import json
import math
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Model = Callable[[str], Mapping[str, float]]


class OpenAIServer:
    """One server thread. Use as a context manager."""

    def __init__(self, model: Model, *, name: str = "tiny", key: str | None = None) -> None:
        self.model, self.name, self.key = model, name, key
        self.prompts: list[str] = []
        self.requests: list[tuple[str, Mapping[str, Any]]] = []
        """(path, body), those that were refused too."""
        self._faults: list[Callable[[_Exchange], None]] = []
        self._http = _Http(("127.0.0.1", 0), _Exchange)
        self._http.kit = self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def refuse(self, status: int, *, times: int = 1, retry_after_s: float | None = None) -> None:
        """Answer so instead, the next `times` times."""
        headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:g}"}
        body = {"error": {"message": f"refused with {status}", "type": "test", "code": status}}
        self._faults += [lambda handler: handler.say(status, json.dumps(body).encode(), headers)] * times

    def redirect(self, url: str, *, times: int = 1) -> None:
        """Say that the answer is there."""
        self._faults += [lambda handler: handler.say(307, b"", {"Location": url})] * times

    def say_nothing(self, *, times: int = 1) -> None:
        """End the answer before its first token, as llama-cpp-python's server writes it."""
        nothing: dict[str, Any] = {"content": [], "refusal": None} | {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        self.garble(json.dumps({"choices": [{"index": 0, "text": "", "logprobs": nothing, "finish_reason": "stop"}]}).encode(), times=times)

    def garble(self, data: bytes, *, times: int = 1) -> None:
        """Answer 200 with these bytes."""
        self._faults += [lambda handler: handler.say(200, data, {})] * times

    def truncate(self, *, times: int = 1) -> None:
        """Promise more bytes than come."""
        self._faults += [lambda handler: handler.say(200, b'{"choices": [', {"Content-Length": "4000"})] * times

    def hang_up(self, *, times: int = 1) -> None:
        """Close the connection without an answer."""
        self._faults += [lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)] * times

    def stall(self, until: threading.Event, *, times: int = 1) -> None:
        """Say nothing before the event."""

        def wait(_handler: _Exchange) -> None:
            until.wait(60)

        self._faults += [wait] * times

    def next_fault(self) -> "Callable[[_Exchange], None] | None":
        return self._faults.pop(0) if self._faults else None

    def top(self, prompt: str, count: int) -> list[tuple[str, float]]:
        self.prompts.append(prompt)
        likely = sorted(self.model(prompt).items(), key=lambda item: -item[1])
        return [(token, math.log(prob)) for token, prob in likely[:count] if prob > 0]


class _Http(ThreadingHTTPServer):
    kit: OpenAIServer
    daemon_threads = True


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        self._answer(
            {}, lambda kit, _body: {"object": "list", "data": [{"id": kit.name, "object": "model", "created": 1, "owned_by": "kit"}]}
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(body, {"/v1/chat/completions": _chat, "/v1/completions": _completion}[self.path])

    def _answer(self, body: Mapping[str, Any], make: Callable[[OpenAIServer, Mapping[str, Any]], Mapping[str, Any]]) -> None:
        kit = self.server.kit
        kit.requests.append((self.path, body))
        fault = kit.next_fault()
        if fault:
            self.close_connection = True
            fault(self)
            return
        if kit.key and self.headers.get("Authorization") != f"Bearer {kit.key}":
            self.say(401, b'{"error": {"message": "Incorrect API key provided", "type": "invalid_request_error"}}', {})
            return
        self.say(200, json.dumps(make(kit, body)).encode(), {})

    def say(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(data))} | dict(headers)).items():
            self.send_header(name, value)
        if self.close_connection:  # said, or a client that asks again at once finds the connection closed under it
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Tests look at `requests`."""


def _chat(kit: OpenAIServer, body: Mapping[str, Any]) -> Mapping[str, Any]:
    top = kit.top(body["messages"][-1]["content"], body["top_logprobs"])
    entries = [{"token": token, "logprob": log_prob, "bytes": list(token.encode())} for token, log_prob in top]
    content = [entries[0] | {"top_logprobs": entries}] if body.get("logprobs") else None
    message = {"role": "assistant", "content": top[0][0], "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": {"content": content, "refusal": None}, "finish_reason": "length"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice], "usage": _USAGE}


def _completion(kit: OpenAIServer, body: Mapping[str, Any]) -> Mapping[str, Any]:
    top = kit.top(body["prompt"], body["logprobs"])
    logprobs = {"tokens": [top[0][0]], "token_logprobs": [top[0][1]], "top_logprobs": [dict(top)], "text_offset": [len(body["prompt"])]}
    choice = {"index": 0, "text": top[0][0], "logprobs": logprobs, "finish_reason": "length"}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"], "choices": [choice], "usage": _USAGE}


_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}

"""A language model behind an OpenAI-compatible server as a teacher: the log-probabilities of label words, as a distribution.

    [teacher]
    use = "openai"
    [teacher.options]
    url = "http://127.0.0.1:8000/v1"
    model = "my-model"
    prompt = "Is this e-mail spam or ham? Answer with one word.\\n\\n{text}\\n\\nAnswer:"
    words = { spam = "spam", ham = "ham" }

`api` is `chat` (default) or `completions`. A completions server is asked again where words of two classes begin with the same token; a chat
server can't be made to go on from there, so that mass counts for nothing, and label words should differ in their first token. A row whose
answer is no label word (less than `least_mass` of it) is NaN: a bad sample. The key, if there is one, is in the file `api_key_file`.

Requests are repeated by urllib3 (429 and 5xx, Retry-After, growing pauses with jitter), a few at a time. `requests_per_minute` and
`tokens_per_minute` are budgets of the whole run: each of `workers_max` teachers keeps to its share, and what is asked again counts again.
A server that does not answer ends the run: no row is at fault.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import urllib3
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pyrate_limiter import Duration, Limiter, Rate
from urllib3.exceptions import HTTPError, MaxRetryError

from pipeline.config import TeacherSection
from pipeline.errors import TeacherError
from pipeline.files import read_bounded
from pipeline.teachers.fingerprints import fingerprint_of
from pipeline.teachers.teacher import RawTeacher, TeacherLoadError, TeacherUnavailableError
from pipeline.teachers.words import Words, distribution, read_tokens

MAX_ANSWER_BYTES = 4 * 2**20
MAX_KEY_BYTES = 4096
TRIES = 3
"""Of one request whose answer came and was no answer."""
CHARS_PER_TOKEN = 3
"""How tokens of a prompt are estimated for their budget: on the safe side of what tokenizers make of prose."""
DEPTH = 4
"""Tokens of a label word that are looked at."""
BUDGET_MS = int(Duration.MINUTE)
"""What a budget is of."""


class PacedRetry(urllib3.Retry):
    """Pauses as urllib3 does, then for the budgets: to them it is one more request."""

    def __init__(self, *args: Any, before: Callable[[], None] = lambda: None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._before = before

    def new(self, **changed: Any) -> "PacedRetry":
        return super().new(**({"before": self._before} | changed))

    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        super().sleep(response)
        self._before()


RETRY = PacedRetry(
    total=6,
    redirect=False,  # would be one more request, uncounted; `url` is better corrected
    status_forcelist={429, 500, 502, 503, 504},
    allowed_methods=None,
    backoff_factor=0.5,
    backoff_max=30,
    backoff_jitter=0.5,
    respect_retry_after_header=True,
    retry_after_max=300,
    raise_on_status=False,
)


OF_THE_ROW = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY})
"""Answers that are about one prompt: too long, mostly."""
HOW = ("concurrency", "requests_per_minute", "tokens_per_minute", "timeout_s", "api_key_file")
"""Options that change how the server is asked, not what it says."""


SAYS_NOTHING: Mapping[str, float] = {"": 0.0}
"""Of a model that ends its answer at once: llama-cpp-python's server then returns no token."""


class Options(BaseModel):
    """`teacher.options` of this teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, Field(pattern=r"^https?://")]
    model: str
    prompt: Annotated[str, Field(pattern=r"\{text\}")]
    words: Mapping[str, str | tuple[str, ...]]
    api: Literal["chat", "completions"] = "chat"
    top_logprobs: Annotated[int, Field(ge=1, le=100)] = 20
    least_mass: Annotated[float, Field(ge=0, le=1)] = 0.05
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    api_key_file: str | None = None


def load_openai(section: TeacherSection, classes: tuple[str, ...], base: Path) -> RawTeacher:
    """Ask the server which models it has, and take `model`. Raises TeacherLoadError, TeacherUnavailableError."""
    try:
        options = Options.model_validate(dict(section.options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _refused(f"options.{where}: {first['msg'].lower()}", "see docs/teachers.md") from error
    if set(options.words) != set(classes):
        raise _refused(f"words for {sorted(options.words)}", f"words for each of {list(classes)}")
    words = {name: (given,) if isinstance(given := options.words[name], str) else given for name in classes}
    key = _key(base / options.api_key_file) if options.api_key_file else None
    server = Server(options, key=key, pace=Pace(options, among=section.workers_max))
    models = server.models()
    if options.model not in models:
        raise _refused(f"no model {options.model!r} at {options.url}", f"one of: {', '.join(sorted(models)) or 'none'}")
    facts = {name: value for name, value in options.model_dump().items() if name not in HOW}
    return OpenAITeacher(server, words, options=options, fingerprint=fingerprint_of(facts | {"served": models[options.model]}))


class PromptRefusedError(TeacherError):
    """The server refuses this prompt, and would again: a bad sample."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model, self.reason = model, reason

    def __str__(self) -> str:
        return f"model {self.model} refuses the prompt: {self.reason}; expected one that it takes; shorten the samples, or the prompt"


class OpenAITeacher:
    """Asks the server about each input. May be called by one thread at a time."""

    def __init__(self, server: "Server", words: Words, *, options: Options, fingerprint: str) -> None:
        self.classes: Sequence[str] = tuple(words)
        self.fingerprint = fingerprint
        self._server, self._words, self._options = server, words, options
        self._pool = ThreadPoolExecutor(options.concurrency, thread_name_prefix="teacher request")

    def log_probs(self, inputs: Any) -> Any:
        return np.array(list(self._pool.map(self._row, inputs.to_pylist())), dtype=np.float32)

    def _row(self, text: str) -> list[float]:
        # Not str.format: a text, and a prompt, may have braces of their own.
        prompt = self._options.prompt.replace("{text}", text)
        first = read_tokens(self._server.next_tokens(prompt), self._words)
        mass, waiting = dict(first.mass), dict(first.open)
        for _ in range(DEPTH if self._options.api == "completions" else 0):
            asked, waiting = waiting, {}
            for said, prob in asked.items():
                after = read_tokens(self._server.next_tokens(prompt + said), self._words, said=said)
                mass = {name: share + prob * after.mass[name] for name, share in mass.items()}
                waiting |= {prefix: prob * share for prefix, share in after.open.items()}
        log_probs_K, said_mass = distribution(mass, first)
        return log_probs_K if said_mass >= self._options.least_mass else [float("nan")] * len(mass)


class Pace:
    """One teacher's share of the budgets. Raises TeacherLoadError where they are too small to be shared."""

    def __init__(self, options: Options, *, among: int) -> None:
        self._shares: dict[str, tuple[int, Limiter]] = {}
        for name in ("requests_per_minute", "tokens_per_minute"):
            if (budget := getattr(options, name)) is None:
                continue
            if budget < among:
                raise _refused(f"{name} = {budget} for {among} teachers", "one or more for each (`teacher.workers_max`)")
            self._shares[name] = (budget // among, Limiter(Rate(budget // among, BUDGET_MS)))

    def wait(self, tokens: int) -> None:
        """Until there is room for a request of so many tokens; one above the share waits for all of it."""
        for name, (share, limiter) in self._shares.items():
            limiter.try_acquire(name, weight=1 if name == "requests_per_minute" else min(tokens, share))


class Server:
    """The HTTP side: one base URL, some connections, a pace."""

    def __init__(self, options: Options, *, key: str | None, pace: Pace) -> None:
        self._options, self._pace = options, pace
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._pool = urllib3.PoolManager(maxsize=options.concurrency, block=True, timeout=options.timeout_s)

    def models(self) -> dict[str, Any]:
        """Model -> how the server describes it."""
        known = ("id", "created", "owned_by", "root")
        listed: list[dict[str, Any]] = self._ask("GET", "/models", None, lambda answer: list(answer["data"]))
        return {str(model["id"]): {name: model[name] for name in known if name in model} for model in listed}

    def next_tokens(self, prompt: str) -> Mapping[str, float]:
        """The most likely first tokens of the answer, with their natural log-probabilities."""
        options = self._options
        tokens = len(prompt) // CHARS_PER_TOKEN + 1
        common = {"model": options.model, "max_tokens": 1, "temperature": 0, "seed": 0}
        if options.api == "completions":
            body = common | {"prompt": prompt, "logprobs": options.top_logprobs}
            return dict(self._ask("POST", "/completions", body, _completion_tokens, tokens=tokens))
        body = common | {"messages": [{"role": "user", "content": prompt}], "logprobs": True, "top_logprobs": options.top_logprobs}
        return dict(self._ask("POST", "/chat/completions", body, _chat_tokens, tokens=tokens))

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], Any], *, tokens: int = 0) -> Any:
        problem = ""
        for _ in range(TRIES):
            try:
                status, data = self._request(method, self._options.url.rstrip("/") + path, body, tokens)
            except MaxRetryError as error:  # it was asked often enough
                raise TeacherUnavailableError(self._options.url, f"{type(error.reason).__name__}: {str(error.reason)[:200]}") from error
            except HTTPError as error:
                problem = f"{type(error).__name__}: {str(error)[:200]}"
                continue
            start = data[:200].decode(errors="replace")
            if status in OF_THE_ROW:
                raise PromptRefusedError(self._options.model, start)
            if status != HTTPStatus.OK:
                raise TeacherUnavailableError(self._options.url, f"{path} answered {status}: {start}")
            try:
                return read(json.loads(data))
            except (ValueError, KeyError, IndexError, TypeError, RecursionError, AttributeError) as error:
                problem = f"{path} answered what has no log-probabilities ({type(error).__name__}): {start}"
        raise TeacherUnavailableError(self._options.url, problem)

    def _request(self, method: str, url: str, body: Mapping[str, Any] | None, tokens: int) -> tuple[int, bytes]:
        self._pace.wait(tokens)
        retries = RETRY.new(before=lambda: self._pace.wait(tokens))
        sent = None if body is None else json.dumps(body)
        with self._pool.request(method, url, body=sent, headers=self._headers, retries=retries, preload_content=False) as response:
            return response.status, response.read(MAX_ANSWER_BYTES)


def _chat_tokens(answer: Any) -> Mapping[str, float]:
    choice = answer["choices"][0]
    if choice["logprobs"]["content"] == [] and choice["finish_reason"] == "stop":
        return SAYS_NOTHING
    first = choice["logprobs"]["content"][0]
    return _merged((entry["token"], entry["logprob"]) for entry in first["top_logprobs"] or [first])


def _completion_tokens(answer: Any) -> Mapping[str, float]:
    choice = answer["choices"][0]
    if choice["logprobs"]["top_logprobs"] == [] and choice["finish_reason"] == "stop":
        return SAYS_NOTHING
    return _merged(choice["logprobs"]["top_logprobs"][0].items())


def _merged(tokens: Any) -> Mapping[str, float]:
    found = {str(token): float(log_prob) for token, log_prob in tokens}
    if not found:
        raise ValueError("no tokens")
    return found


def _key(path: Path) -> str:
    try:
        key = read_bounded(path, MAX_KEY_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(f"api_key_file {path}: {type(error).__name__}", "a file with the key and nothing else") from None
    if not key or not key.isprintable() or " " in key:
        raise _refused(f"api_key_file {path}: no key, or more than one line", "a file with the key and nothing else")
    return key


def _refused(found: str, expected: str) -> TeacherLoadError:
    return TeacherLoadError("teacher openai", found, expected, "correct `teacher.options` in the run file")

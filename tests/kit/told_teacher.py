"""A teacher that says what it was told: the line of a device in the test's own process, and what `FakeFleet.teacher` may be."""

from collections.abc import Callable, Sequence

from workers.edge.questions import Asked
from workers.rpc import fleet_pb2 as pb


class ToldTeacher:
    """Says `spam`, surely, unless a text has words of its own. Faults are attributes."""

    def __init__(self, classes: Sequence[str] = ("ham", "spam"), probabilities: Sequence[float] = (0.0625, 0.9375)) -> None:
        self.classes, self.probabilities = tuple(classes), tuple(probabilities)
        self.by_text: dict[str, Sequence[float]] = {}
        self.fault: Callable[[pb.AskRequest], Asked | None] = lambda request: None
        """What a question meets instead of an answer."""
        self.on_ask: Callable[[], object] = lambda: None
        self.on_answer: Callable[[], object] = lambda: None
        self.calls: list[tuple[list[pb.AskRequest], float]] = []
        """Questions that were put together, and how long they may take."""

    @property
    def asked(self) -> list[pb.AskRequest]:
        return [request for requests, _ in self.calls for request in requests]

    def __call__(self, request: pb.AskRequest) -> pb.AskResponse:
        self.on_answer()
        probabilities = self.by_text.get(request.text, self.probabilities)
        return pb.AskResponse(classes=self.classes, probabilities=probabilities, teacher="teacher-1")

    def ask(self, requests: Sequence[pb.AskRequest], timeout_s: float) -> list[Asked]:
        self.calls.append((list(requests), timeout_s))
        self.on_ask()
        return [self.fault(request) or self(request) for request in requests]

"""What a device asks the teacher, from its message to the bytes that the teacher's process gets.

A question is the UTF-8 of a text, or numbers. Questions of one shape go to the teacher together: all texts, or numbers of one length. This
module is both ends' and knows no Arrow; what it refuses never reaches the teacher.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.orchestrator.reports import BodyRefusedError
from workers.rpc import fleet_pb2

MAX_TEXT_BYTES = 64 * 1024
MAX_NUMBERS = 65_536
TEXT = 0
"""The shape of a text; that of numbers is how many they are."""

Question = bytes | NDArray[np.float32]


def read_question(request: fleet_pb2.AskRequest) -> Question:
    """The input of the request, checked. Raises BodyRefusedError."""
    match request.WhichOneof("input"):
        case "text":
            text = request.text.encode()
            if len(text) > MAX_TEXT_BYTES:
                raise BodyRefusedError("text", f"{len(text)} bytes", f"at most {MAX_TEXT_BYTES}")
            return text
        case "numbers":
            return _numbers(request.numbers)
        case _:
            raise BodyRefusedError("input", "none", "a text, or numbers")


def shape_of(question: Question) -> int:
    """What questions that go together have in common."""
    return TEXT if isinstance(question, bytes) else len(question)


def pack(questions: Sequence[Question]) -> bytes:
    """Questions of one shape, one behind the other; before texts stand the lengths of all."""
    payload = b"".join(question if isinstance(question, bytes) else question.tobytes() for question in questions)
    if shape_of(questions[0]) != TEXT:
        return payload
    return np.array([len(question) for question in questions], dtype="<u4").tobytes() + payload


def _numbers(told: fleet_pb2.Numbers) -> NDArray[np.float32]:
    count = len(told.values)
    if not 0 < count <= MAX_NUMBERS:
        raise BodyRefusedError("numbers", f"{count} of them", f"1 to {MAX_NUMBERS}")
    told.DiscardUnknownFields()  # so that the message ends with its numbers: as they are, without a Python object for each
    values = np.frombuffer(told.SerializeToString()[-4 * count :], dtype="<f4")
    if not np.isfinite(values).all():
        raise BodyRefusedError("numbers", f"{np.count_nonzero(~np.isfinite(values))} that are not finite", "finite numbers")
    return values

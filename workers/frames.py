"""The bytes between a process and a worker of its own (an agent's model, an orchestrator's teacher): frames over a socket pair.

A frame is `<B kind, I rows, I width, d seconds, I payload length>` and the payload: raw little-endian numbers (or what both ends agreed
on), or UTF-8 text for READY and ERROR. Bounded, no pickle. Both ends are the same version, because one starts the other from its own files.
"""

import socket
import struct
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct("<BIIdI")
MAX_FRAME_BYTES = 256 << 20
_JOINED_BYTES = 65_536
"""Up to here one copy is cheaper than a second system call."""


class Kind(IntEnum):
    READY = 1
    RUN = 2
    ANSWER = 3
    ERROR = 4
    MEMORY = 5


class Head(NamedTuple):
    """What comes before a payload."""

    kind: int
    rows: int
    width: int
    seconds: float
    length: int


class Frame(NamedTuple):
    kind: int
    rows: int
    width: int
    seconds: float
    payload: bytearray


def send_frame(
    peer: socket.socket, kind: Kind, payload: bytes | memoryview = b"", *, rows: int = 0, width: int = 0, seconds: float = 0.0
) -> None:
    """Raises OSError where the peer is gone."""
    header = HEADER.pack(kind, rows, width, seconds, len(payload))
    if len(payload) <= _JOINED_BYTES:
        peer.sendall(b"".join((header, payload)))
    else:
        peer.sendall(header)
        peer.sendall(payload)


def receive_frame(peer: socket.socket) -> Frame:
    """Raises EOFError where the peer is gone, ValueError for a frame beyond the bound, TimeoutError."""
    head = receive_head(peer)
    payload = bytearray(head.length)
    fill(peer, memoryview(payload))
    return Frame(head.kind, head.rows, head.width, head.seconds, payload)


def receive_head(peer: socket.socket) -> Head:
    """The head alone; its payload is the caller's to `fill`. Raises as `receive_frame`."""
    data = bytearray(HEADER.size)
    fill(peer, memoryview(data))
    head = Head._make(HEADER.unpack(data))
    if head.length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {head.length} bytes")
    return head


def fill(peer: socket.socket, view: memoryview) -> None:
    """Receive exactly as many bytes as `view` has. Raises EOFError, TimeoutError."""
    got = 0
    while got < len(view):
        received = peer.recv_into(view[got:])
        if received == 0:
            raise EOFError
        got += received

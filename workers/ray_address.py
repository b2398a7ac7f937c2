"""Whether anybody answers where a Ray cluster is said to be; asked without Ray, which is in no hurry to say no."""

import socket

from pipeline.errors import MachineError

ANSWER_WITHIN_S = 5.0


class RayUnavailableError(MachineError):
    """Ray could not be started or joined."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"Ray at {self.address}: {self.reason}; expected a cluster that answers; `kdpipe doctor` says what this machine has"


def require_answer(address: str) -> None:
    """Raises RayUnavailableError where nobody listens at `host:port`: Ray would ask again for minutes, without a word.

    Ray never asks a loopback address but this machine's outward one in its place, so a head that listens on loopback only can't be joined.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto` and the like: Ray looks itself
    asked = _outward_host() if host in ("127.0.0.1", "localhost") and not address.startswith("ray://") else host
    try:
        socket.create_connection((asked, int(port)), timeout=ANSWER_WITHIN_S).close()
    except OSError as error:
        as_asked = "" if asked == host else f", which Ray asks as {asked}:{port}"
        raise RayUnavailableError(address, f"nobody answers there{as_asked} ({error})") from error


def _outward_host() -> str:
    """This machine's address towards other machines; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])

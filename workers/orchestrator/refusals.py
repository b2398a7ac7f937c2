"""Reasons for which a call is refused that belong to no single service."""

from pipeline.errors import FleetError


class CallerRefusedError(FleetError):
    """The caller is who it says, and may not do this."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        return f"caller: {self.found}; expected {self.expected}"


class DeviceUnknownError(FleetError):
    """There is no such device."""

    def __init__(self, device_id: str) -> None:
        super().__init__(device_id)
        self.device_id = device_id

    def __str__(self) -> str:
        return f"device {self.device_id}: there is none; expected an enrolled one; `kdpipe device ls FLEET` lists them"


class TokenRefusedError(FleetError):
    """An enrolment token is unknown, used, or too old. Which of them is not said to a stranger."""

    def __str__(self) -> str:
        return "enrolment token: unknown, used or expired; expected a fresh one; `kdpipe token new` writes an enrolment file"


class OverloadedError(FleetError):
    """Too much at once; ask again later."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        return f"the orchestrator is busy: {self.found}; expected {self.expected}; ask again in a moment"


class StalledError(FleetError):
    """A caller takes nothing of what is sent to it."""

    def __init__(self, stalled_s: float) -> None:
        super().__init__(stalled_s)
        self.stalled_s = stalled_s

    def __str__(self) -> str:
        return f"the caller took nothing for {self.stalled_s:g} s; expected it to read; ask for the rest by its range"


class PictureOldError(FleetError):
    """This replica has not heard from the database for too long to know who was revoked since."""

    def __init__(self, found_s: float, most_s: float) -> None:
        super().__init__(found_s, most_s)
        self.found_s, self.most_s = found_s, most_s

    def __str__(self) -> str:
        return (
            f"the orchestrator last heard from its database {self.found_s:.0f} s ago; expected at most {self.most_s:.0f} s; "
            f"its log says why; ask again, or ask another replica"
        )

"""An orchestrator that kills itself at a named point of its own work.

    python -m tests.kit.killed_orchestrator POINT N ARGUMENTS OF workers.orchestrator...

At the N-th time that it comes to POINT it gets SIGKILL, in the middle of whatever all its threads do.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from workers.orchestrator import writer
from workers.orchestrator.__main__ import main
from workers.orchestrator.engine import Engine
from workers.orchestrator.roster import Roster
from workers.orchestrator.turns import Turns
from workers.orchestrator.writer import Session

POINTS: dict[str, tuple[Any, str, bool]] = {
    "transaction begun": (Roster, "catch_up", True),
    "jobs done, nothing written": (Session, "flush", False),
    "written, not committed": (Session, "flush", True),
    "committed, not answered": (writer, "_answer", False),
    "answered": (writer, "_answer", True),
    "assignment signed": (Engine, "assign", True),
    "wave engine asked": (Turns, "_pass", False),
    "wave engine moved": (Turns, "_pass", True),
}
"""Where each point is: before or after (True) a function."""


def arm(point: str, number: int) -> None:
    owner, name, is_after = POINTS[point]
    real: Callable[..., Any] = getattr(owner, name)
    left = [number]

    def strike() -> None:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def call(*args: Any, **keywords: Any) -> Any:
        if not is_after:
            strike()
        result = real(*args, **keywords)
        if is_after:
            strike()
        return result

    setattr(owner, name, call)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))

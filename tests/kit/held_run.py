"""`kdpipe`, holding still at one step of a stage, so that a killer can look at it before it strikes.

    python -m tests.kit.held_run STAGE STEP run spam ...

From the moment the driver says that it is in a stage whose name ends with STAGE, touches of the disk are counted as `KillSwitch` counts
them; before the STEP-th, the process stops itself (SIGSTOP), once. For stages that are over in less time than it takes to see them.
"""

import os
import signal
import sys

from tests.kit.kill_switch import KillSwitch
from workers import cli
from workers.driver.reporter import Reporter


class HoldSwitch(KillSwitch):
    """Holds where a `KillSwitch` kills, and goes on if it is let."""

    def strike(self) -> None:
        if not self.fired:
            self.fired = True
            os.kill(os.getpid(), signal.SIGSTOP)


def hold_in(stage: str, step: int) -> None:
    """Arm this process."""
    enter = Reporter.stage

    def enter_and_count(self: Reporter, name: str) -> None:
        enter(self, name)
        if name.endswith(stage):
            HoldSwitch(step).__enter__()

    Reporter.stage = enter_and_count  # type: ignore[method-assign]


if __name__ == "__main__":
    hold_in(sys.argv[1], int(sys.argv[2]))
    del sys.argv[1:3]
    cli.main()

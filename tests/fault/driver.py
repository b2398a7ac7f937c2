"""Kill a whole run, again and again, and see that it ends as if nothing had happened.

    python -m tests.fault.driver --kills 10 --seed 1 [--recipe spam]

Starts `kdpipe run RECIPE` in a new folder and ends its driver with SIGKILL: at least once in each phase (label, train, export,
sign, wave) where there are kills enough, each time at a random moment of it; then the same command again. At the end every planned sample
is labelled exactly once, the teacher was asked about each committed row once, nothing that the run started is alive, and all devices
confirm.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from pipeline.labels.log import LogReader
from pipeline.labels.state import LogState
from pipeline.labels.store import open_store
from tests.kit.runs import BackgroundRun, committed, kdpipe, read, stage_of

PHASES = ("label", "train", "export", "sign", "wave")
DELAY_S = {"label": 3.0, "train": 10.0, "export": 10.0, "sign": 0.02, "wave": 4.0}
"""Longest wait inside a phase before the kill."""


def phase_of(folder: Path) -> str:
    """Where the run is now; empty between phases."""
    stage = stage_of(folder)
    if stage.endswith("label and train"):
        state = _log(folder)
        return "" if not state.commits else "train" if state.ends else "label"
    endings: dict[str, str] = {"export and judge": "export", "sign": "sign", "roll out": "wave"}
    return next((phase for ending, phase in endings.items() if stage.endswith(ending)), "")


def kill_and_finish(home: Path, *, recipe: str, phases: list[str], seed: int, say: Callable[[str], None]) -> list[str]:
    """Kill once in each of `phases`, in that order, then let the run end. Returns the phases that were hit."""
    chance, folder, hit = random.Random(seed), home / "runs" / recipe, []
    for wanted in phases:
        (folder / "status.json").unlink(missing_ok=True)  # what the killed run said is no news of the next
        with BackgroundRun(recipe, cwd=home, folder=folder) as run:
            run.wait_until(lambda wanted=wanted: phase_of(folder) == wanted, f"phase {wanted}")  # type: ignore[misc]
            time.sleep(chance.uniform(0, DELAY_S[wanted]))
            found = phase_of(folder) or stage_of(folder)
            run.process.kill()
            run.process.wait()
        hit.append(found)
        say(f"killed in {found}, {len(committed(folder)):,} labels committed")
        _wait_gone(folder)
    ended = kdpipe("run", recipe, cwd=home, timeout_s=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    _check(folder, ended.stdout)
    return hit


def phases_of(kills: int, seed: int) -> list[str]:
    """Each once and some again; of fewer kills than phases, some of them."""
    chance = random.Random(seed)
    more = kills - len(PHASES)
    drawn = chance.sample(PHASES, kills) if more < 0 else [*PHASES, *chance.choices(PHASES, k=more)]
    return sorted(drawn, key=PHASES.index)


def _check(folder: Path, output: str) -> None:
    ids, state = committed(folder), _log(folder)
    assert len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} samples are labelled twice"
    assert len(ids) + state.rows_quarantined == state.rows_planned, f"{len(ids)} labelled of {state.rows_planned}"
    assert state.void_commits == 0
    devices = read(folder / "run.json")["devices"].values()
    assert devices
    for count in devices:
        assert count["confirmed"] == count["devices"] > 0
        assert f"devices confirmed {count['confirmed']} of {count['devices']}" in output


def _log(folder: Path) -> LogState:
    return LogReader(open_store(str(folder / "labels"))).refresh()


def _wait_gone(folder: Path) -> None:
    """What a killed driver started ends by itself, within seconds."""
    pids = [child["pid"] for child in read(folder / "children.json") or []]
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive, f"alive after their driver was killed: {alive}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a run in every phase and check that nothing is lost or doubled.")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recipe", default="spam")
    options = parser.parse_args()
    phases = phases_of(options.kills, options.seed)
    with tempfile.TemporaryDirectory() as home:
        hit = kill_and_finish(Path(home), recipe=options.recipe, phases=phases, seed=options.seed, say=print)
    counts = ", ".join(f"{phase} {hit.count(phase)}" for phase in dict.fromkeys(hit))
    print(f"{len(hit)} kills ({counts}): 0 lost, 0 duplicated, finished with all devices confirmed")
    sys.exit(0)


if __name__ == "__main__":
    main()

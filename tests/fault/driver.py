"""Kill a whole run, again and again, and see that it ends as if nothing had happened.

    python -m tests.fault.driver --kills 10 --seed 1 [--recipe spam]

Starts `kdpipe run RECIPE` in a new folder, holds its driver still at a random moment of a phase (label, train, export, sign, wave),
looks where it is and which processes it has, and ends it with SIGKILL; then the same command again. A phase that was over before the
kill is tried again in another new folder, until each of the phases asked for was hit. After each kill nothing that the run had
started stays alive, Ray's processes included. At the end of each folder every planned sample is labelled exactly once, the log's commits
are as many rows as the run says it asked the teacher, and all devices confirm.
"""

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from pipeline.labels.log import LogReader
from pipeline.labels.state import LogState
from pipeline.labels.store import open_store
from tests.kit.runs import KDPIPE, BackgroundRun, committed, kdpipe, read, stage_of, teacher_rows

PHASES = ("label", "train", "export", "sign", "wave")
DELAY_S = {"train": 10.0, "export": 3.0, "wave": 4.0}
"""Longest wait inside a phase before the kill."""
LABELLED_AT_MOST = 0.8
"""Share of the rows that may be labelled when labelling is killed: random between none and this."""
SIGN_STEPS = 12
"""Signing takes a tenth of a second: its moment is one of its first so many touches of the disk."""
FOLDERS = 4
"""New folders, before a phase that was never hit is a failure."""
GONE_WITHIN_S = 120.0
"""Ours end at once. Ray's agents look for their raylet every two seconds, believe the fifth look, and try to tell its head node first."""


def phase_of(folder: Path) -> str:
    """Where the run is now; empty between phases."""
    stage = stage_of(folder)
    if stage.endswith("label and train"):
        state = _log(folder)
        return "" if not state.commits else "train" if state.ends else "label"
    endings: dict[str, str] = {"export and judge": "export", "sign": "sign", "roll out": "wave"}
    return next((phase for ending, phase in endings.items() if stage.endswith(ending)), "")


def kill_and_finish(home: Path, *, recipe: str, phases: Sequence[str], seed: int, say: Callable[[str], None]) -> list[str]:
    """Kill once in each of `phases`, which are sorted as in PHASES, and let the run end.

    Returns where each kill hit: all of `phases`, and where those hit that came too late.
    """
    chance, hit = random.Random(seed), list[str]()
    for number in range(1, FOLDERS + 1):
        left = sorted((Counter(phases) - Counter(hit)).elements(), key=PHASES.index)
        if not left:
            break
        place = home / str(number)
        place.mkdir()
        hit += _one_folder(place, recipe, left, chance, say)
    missed = Counter(phases) - Counter(hit)
    assert not missed, f"never killed in {', '.join(missed)}; {len(hit)} kills hit {', '.join(hit)}"
    return hit


def _one_folder(home: Path, recipe: str, phases: Sequence[str], chance: random.Random, say: Callable[[str], None]) -> list[str]:
    """One run's life: killed in each of `phases` that it does not leave too soon, then ended and checked."""
    folder, hit = home / "runs" / recipe, list[str]()
    for wanted in phases:
        (folder / "status.json").unlink(missing_ok=True)  # what the killed run said is no news of the next
        with BackgroundRun(recipe, cwd=home, folder=folder, program=_program(wanted, chance)) as run:
            _wait_for_moment(run, wanted, chance)
            if not _hold(run):
                say(f"the run ended before {wanted}")
                break
            found = phase_of(folder) or stage_of(folder)
            driver = psutil.Process(run.process.pid)
            processes = [driver, *driver.children(recursive=True)]
            run.process.kill()
            run.process.wait()
        hit.append(found)
        _wait_gone(processes)
        say(f"killed in {found}, {len(committed(folder)):,} labels committed; its {len(processes)} processes are gone")
    ended = kdpipe("run", recipe, cwd=home)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    _check(folder, ended.stdout)
    return hit


def _program(wanted: str, chance: random.Random) -> Sequence[str]:
    if wanted != "sign":
        return KDPIPE
    root = str(Path(__file__).parents[2])
    return ("env", f"PYTHONPATH={root}", sys.executable, "-m", "tests.kit.held_run", "sign", str(chance.randint(1, SIGN_STEPS)))


def _wait_for_moment(run: BackgroundRun, wanted: str, chance: random.Random) -> None:
    """Until a random moment of the phase, or until the run is past it."""

    def past(more: bool = True) -> bool:
        phase = phase_of(run.folder)
        if phase == wanted:
            return more
        return run.process.poll() is not None or (phase != "" and PHASES.index(phase) > PHASES.index(wanted))

    if wanted == "label":
        share = chance.uniform(0, LABELLED_AT_MOST)
        run.wait_until(lambda: past(more=_share_labelled(run.folder) >= share), f"{share:.0%} are labelled")
    elif wanted == "sign":
        run.wait_until(lambda: _holds_still(run) or past(more=False), "it holds still while it signs")
    else:
        run.wait_until(past, f"phase {wanted}")
        time.sleep(chance.uniform(0, DELAY_S[wanted]))


def _share_labelled(folder: Path) -> float:
    state = _log(folder)
    return state.rows_labelled / state.rows_planned if state.rows_planned else 0.0


def _hold(run: BackgroundRun) -> bool:
    """Stop the driver where it is; False where it has ended."""
    if run.process.poll() is not None:
        return False
    os.kill(run.process.pid, signal.SIGSTOP)
    run.wait_until(lambda: _holds_still(run), "it holds still", patience_s=20)
    return True


def _holds_still(run: BackgroundRun) -> bool:
    return run.process.poll() is None and psutil.Process(run.process.pid).status() == psutil.STATUS_STOPPED


def _check(folder: Path, output: str) -> None:
    ids, state = committed(folder), _log(folder)
    assert len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} samples are labelled twice"
    assert len(ids) + state.rows_quarantined == state.rows_planned, f"{len(ids)} labelled of {state.rows_planned}"
    commits = sorted((commit.start, commit.stop) for commit in state.commits)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(commits)), "commits overlap"
    assert state.void_commits == 0, f"{state.void_commits} commits came after another of the same rows"
    asked = sum(commit.shard.rows - commit.reused for commit in state.commits)
    assert asked == len(ids) - state.rows_reused == sum(teacher_rows(folder)), f"{asked} rows asked for {len(ids)} labels"
    devices = read(folder / "run.json")["devices"].values()
    assert devices
    for count in devices:
        assert count["confirmed"] == count["devices"] > 0
        assert f"devices confirmed {count['confirmed']} of {count['devices']}" in output


def _log(folder: Path) -> LogState:
    return LogReader(open_store(str(folder / "labels"))).refresh()


def _wait_gone(processes: Sequence[psutil.Process]) -> None:
    """What a killed driver started ends by itself."""
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while alive := [process for process in processes if _lives(process)]:
        assert time.monotonic() < deadline_s, f"alive {GONE_WITHIN_S:.0f} s after their driver was killed: {alive}"
        time.sleep(0.1)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def phases_of(kills: int, seed: int) -> list[str]:
    """One of each phase and the rest at random, as many as `kills`; the first few phases where there are fewer kills than phases."""
    chance = random.Random(seed)
    extra = [chance.choice(PHASES) for _ in range(kills - len(PHASES))]
    return sorted([*PHASES[:kills], *extra], key=PHASES.index)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a run in every phase and check that nothing is lost or doubled.")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recipe", default="spam")
    parser.add_argument("--phases", nargs="+", choices=PHASES, help="kill in these alone, once each")
    options = parser.parse_args()
    phases = sorted(options.phases, key=PHASES.index) if options.phases else phases_of(options.kills, options.seed)
    with tempfile.TemporaryDirectory() as home:
        hit = kill_and_finish(Path(home), recipe=options.recipe, phases=phases, seed=options.seed, say=print)
    counts = ", ".join(f"{phase} {hit.count(phase)}" for phase in dict.fromkeys(hit))
    print(f"{len(hit)} kills ({counts}): 0 lost, 0 duplicated, finished with all devices confirmed")
    sys.exit(0)


if __name__ == "__main__":
    main()

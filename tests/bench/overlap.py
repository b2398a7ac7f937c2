"""overlap: wall seconds of labelling while a student trains, against labelling and then training, and against the longer of the two alone.

One teacher on one core, one trainer on another, both processes already started; the same rows, seeds and steps: one pass over all labels.
What each half takes alone is measured in the same turn: training alone reads the labels that labelling alone has made. 84,480 rows make
each half a minute and more; give fewer to look at it in a hurry, but then what happens once (the teacher is loaded, the first window is
waited for) weighs more. If the halves are unlike, no overlap can be near half of their sum, so both are said.
"""

import sys
import tempfile
from pathlib import Path

from tests.bench.compare import Comparison, alone, compare
from tests.bench.halves import BATCH, Halves, wall_s, write_samples

WIDTH = 1472


def run(rows: int = 84_480, runs: int = 3) -> list[Comparison]:
    """Cases: label while training, against both; each half alone."""
    together_s, label_s, train_s = list[float](), list[float](), list[float]()
    steps = rows // BATCH
    for turn in range(runs):
        with tempfile.TemporaryDirectory(prefix="kdpipe-") as home:
            folder = Path(home)
            write_samples(folder, rows=steps * BATCH)
            with Halves(folder, "one") as halves:
                for half, seconds, options in (("label", label_s, {}), ("train", train_s, _student(steps))):
                    started = halves.start(half, core=half == "train", **options)
                    started.go()
                    seconds.append(wall_s(started.end()))
            with Halves(folder, "both") as halves:
                both = [halves.start("label", core=0), halves.start("train", core=1, **_student(steps))]
                for started in both:
                    started.go()
                together_s.append(wall_s(*[started.end() for started in both]))
        print(f"turn {turn}: {label_s[-1]:.1f} + {train_s[-1]:.1f} s alone, {together_s[-1]:.1f} together", file=sys.stderr)
    in_turn_s = [label + train for label, train in zip(label_s, train_s, strict=True)]
    longer_s = [max(pair) for pair in zip(label_s, train_s, strict=True)]
    case = "label while training"
    return [
        compare(name="overlap", case=case, unit="s", ours=together_s, against="label, then train", theirs=in_turn_s),
        compare(name="overlap", case=case, unit="s", ours=together_s, against="longer of the two alone", theirs=longer_s),
        *(
            alone(name="overlap", case=f"{half} alone", unit="s", figure=sorted(seconds)[len(seconds) // 2], n=runs)
            for half, seconds in (("label", label_s), ("train", train_s))
        ),
    ]


def _student(steps: int) -> dict[str, object]:
    return {"student": "small", "width": WIDTH, "steps": steps}

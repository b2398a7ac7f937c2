"""labelling_minilm: e-mails of the spam recipe through MiniLM, our labelling against a plain loop.

The loop asks about 32 e-mails at once, in file order, and writes nothing; ours is one Ray actor, and what it labels is durable. Both have
two threads and cut texts at 256 tokens, run in processes of their own, in turn, the other first in each. `steady` is from the first result
to the last, `total` from a Ray that runs, and for both with the time to load the model.
"""

import json
import tempfile
from pathlib import Path

from tests.bench.compare import Comparison, compare
from tests.bench.labelling import measured
from tests.bench.labelling_peers import MINILM_PEERS
from tests.bench.minilm import mails, unpack

ROWS, RUNS = 640, 3


def run(*, rows: int = ROWS, runs: int = RUNS) -> list[Comparison]:
    """rows/s, turn by turn. `rows` is more than one unit, or there is no `steady`."""
    figures: dict[str, list[tuple[float, float, float]]] = {peer: [] for peer in MINILM_PEERS}
    with tempfile.TemporaryDirectory(prefix="kdpipe-minilm-") as home:
        folder = Path(home)
        unpack(folder)
        (folder / "mails.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in mails(rows)))
        for turn in range(runs):
            for peer in sorted(MINILM_PEERS, reverse=turn % 2 == 1):
                figures[peer].append(measured(peer, folder))
    ours, theirs = figures.values()
    return [
        compare(
            name="labelling_minilm",
            case=case,
            unit="rows/s",
            ours=[turn[place] for turn in ours],
            against="plain loop",
            theirs=[turn[place] for turn in theirs],
        )
        for place, case in enumerate(("steady", "total"))
    ]

"""How much memory a model's process needs, measured in a process of its own: onnxruntime does not give memory back.

`python -m workers.footprint GRAPH KIND` loads the graph as a device does, answers a few inputs and prints its peak resident
size. Bounded in time; imports neither torch nor ray.
"""

import json
import subprocess
import sys
from pathlib import Path

from pipeline.errors import StudentError
from pipeline.inputs import InputKind

TIMEOUT_S = 120
ANSWERS = 50


class FootprintUnknownError(StudentError):
    """The measuring process failed."""

    def __init__(self, graph: str, reason: str) -> None:
        super().__init__(graph, reason)
        self.graph, self.reason = graph, reason

    def __str__(self) -> str:
        return f"{self.graph}: its memory was not measured ({self.reason}); expected a graph that onnxruntime runs; export it again"


def memory_of(graph: Path, *, kind: InputKind) -> int:
    """Peak resident bytes of a process that runs the graph. Raises FootprintUnknownError."""
    command = [sys.executable, "-P", "-m", "workers.footprint", str(graph.resolve()), kind]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True, text=True)
        return int(json.loads(done.stdout.splitlines()[-1])["memory_bytes"])
    except subprocess.TimeoutExpired as error:
        raise FootprintUnknownError(str(graph), f"no answer in {TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        raise FootprintUnknownError(str(graph), (error.stderr.strip().splitlines() or ["no message"])[-1][:300]) from error
    except (ValueError, KeyError, IndexError) as error:
        raise FootprintUnknownError(str(graph), f"an answer that does not read ({error})") from error


def _measure(graph: Path, kind: InputKind) -> int:
    from pipeline.students.graph import Graph

    model = Graph(graph, kind=kind)
    sample = "a" * model.width if kind == "text" else (0.5,) * model.width
    for _ in range(ANSWERS):
        model.logits([sample])
    return _peak_bytes()


def _peak_bytes() -> int:
    """Peak resident size of this program. On Linux not from getrusage: that counts what the parent held when it forked."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"memory_bytes": _measure(Path(sys.argv[1]), "floats" if sys.argv[2] == "floats" else "text")}) + "\n")

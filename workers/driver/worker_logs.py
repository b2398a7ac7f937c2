"""The logs of a run by part: what its processes write into DIR/logs, and what Ray's workers write into Ray's own folder.

Teachers, trainers and controls are Ray's workers: Ray gives each a file for its output and one for its errors, in its session's folder on
the worker's machine. `link_ray_logs` leaves a link to it, DIR/logs/ray; workers of other machines keep their logs there.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

LINK = "ray"
WORKERS = {"TeacherActor": "teacher", "RayTrainWorker": "trainer", "TrainController": "train-controller", "make_control": "control"}
"""Names that Ray writes at the top of a worker's file -> ours; Ray's own workers are left out."""
HEAD_BYTES = 4096


def link_ray_logs(logs: Path) -> None:
    """Point DIR/logs/ray at the logs of the Ray session that this process has joined, if it has a folder on this machine."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    sockets = [node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here]
    link = logs / LINK
    link.unlink(missing_ok=True)
    for socket in sockets:
        target = Path(socket).parents[1] / "logs"
        if target.is_dir():
            link.symlink_to(target)


def log_files(logs: Path) -> Mapping[str, Path]:
    """Part -> its file, sorted by part: `driver`, `orchestrator`, `phones-1`, and `teacher-PID.err` and the like of Ray's workers."""
    ours = {path.stem: path for path in logs.glob("*.log")}
    return dict(sorted({**ours, **dict(_workers(logs / LINK))}.items()))


def _workers(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.glob("worker-*-*-*.*"):
        with path.open("rb") as file:
            name = re.search(rb"^:(?:actor|task)_name:(\w+)", file.read(HEAD_BYTES), re.M)
        kind = WORKERS.get(name[1].decode()) if name else None
        if kind:
            yield f"{kind}-{path.name.rpartition('-')[2]}", path

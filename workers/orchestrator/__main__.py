"""`python -m workers.orchestrator`: the orchestrator as a process.

Prints one JSON line when it serves, logs JSON lines to stderr, stops on SIGTERM or SIGINT, and with `--exit-with-parent` also
when its stdin ends. An error is one line on stderr and the exit code of its family.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipeline.errors import ConfigError, KdpipeError
from pipeline.releases.keys import Unlock
from workers.logs import log_as_json
from workers.orchestrator.leadership import LEASE_S
from workers.orchestrator.limits import Limits
from workers.orchestrator.pacing import Pacing
from workers.orchestrator.ports import Ports
from workers.orchestrator.server import Orchestrator, Settings
from workers.orchestrator.teacher_process import TeacherEnd, TeacherProcess, without_secrets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; returns the exit code."""
    options = _parse(arguments)
    log_as_json(sys.stderr)
    try:
        asyncio.run(_run(_settings(options), exit_with_parent=options.exit_with_parent))
    except KdpipeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


async def _run(settings: Settings, *, exit_with_parent: bool) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    orchestrator = Orchestrator(settings)
    ports = await orchestrator.start()
    if exit_with_parent:
        threading.Thread(target=_watch_stdin, args=(loop, told), name="stdin-watch", daemon=True).start()
    ready = {"ready": True, "pid": os.getpid(), "host": settings.host, **{f"{name}_port": port for name, port in asdict(ports).items()}}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    await told.wait()
    await orchestrator.stop()


def _watch_stdin(loop: asyncio.AbstractEventLoop, told: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(told.set)


def _settings(options: argparse.Namespace) -> Settings:
    ports = Ports(fleet=options.fleet_port, enrolment=options.enrolment_port, operator=options.operator_port, metrics=options.metrics_port)
    return Settings(
        folder=options.dir,
        repository=options.repository,
        keys=options.keys,
        unlock=Unlock(environment=dict(os.environ)),
        host=options.host,
        ports=ports,
        pacing=Pacing(busy_s=options.busy_sync_s, idle_s=options.idle_sync_s, calls_per_s=options.syncs_per_s),
        limits=Limits(
            device_calls_per_s=options.device_calls_per_s,
            device_calls_burst=10 * options.device_calls_per_s,
            device_reports_per_s=options.device_reports_per_s,
            asks_per_s=options.asks_per_s,
            syncs_per_s=options.syncs_per_s,
        ),
        open_teacher=_opener(options.teacher, options.keys),
        database_url=options.database_url,
        ca_folder=options.ca_dir,
        names=tuple(options.name),
        lease_s=options.lease_s,
    )


def _opener(run: Path | None, keys: Path) -> Callable[[], TeacherEnd] | None:
    """Raises ConfigError."""
    if run is None:
        return None
    if not run.exists():
        raise ConfigError("--teacher", f"found no {run}", "a run file, or the folder of a run")
    return partial(TeacherProcess, run, without_secrets(os.environ, keys))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.orchestrator", description="Serve a fleet of devices.")
    parser.add_argument("--dir", type=Path, required=True, help="the orchestrator's own folder: certificates, database, ports")
    parser.add_argument("--repository", type=Path, required=True, help="the TUF repository")
    parser.add_argument("--keys", type=Path, required=True, help="folder of the online keys: snapshot, timestamp, assignment")
    parser.add_argument("--host", default="127.0.0.1")
    for name in ("fleet", "enrolment", "operator", "metrics"):
        parser.add_argument(f"--{name}-port", type=int, default=0, help="0 takes the last one, or picks a free one on the first start")
    parser.add_argument("--busy-sync-s", type=float, default=Pacing.busy_s, help="interval of Sync while a rollout moves")
    parser.add_argument("--idle-sync-s", type=float, default=Pacing.idle_s, help="interval of Sync otherwise")
    parser.add_argument(
        "--device-calls-per-s", type=float, default=Limits.device_calls_per_s, help="most that one device may call on average"
    )
    parser.add_argument(
        "--device-reports-per-s", type=float, default=Limits.device_reports_per_s, help="most new reports of one device on average"
    )
    parser.add_argument("--syncs-per-s", type=float, default=Pacing.calls_per_s, help="most Sync calls of all devices together")
    parser.add_argument("--teacher", type=Path, metavar="RUN", help="run file, or folder of a run, whose teacher devices may ask")
    parser.add_argument("--asks-per-s", type=float, default=Limits.asks_per_s, help="most questions of all devices together")
    parser.add_argument("--database-url", default="", help="postgresql://USER@HOST/NAME or sqlite:///FILE; SQLite in --dir by default")
    parser.add_argument("--ca-dir", type=Path, help="where replicas share the CA's private key; --dir/pki by default")
    parser.add_argument("--name", action="append", default=[], help="a further name or address by which devices reach this replica")
    parser.add_argument("--lease-s", type=float, default=LEASE_S, help="how long the leading replica may be silent before another leads")
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin ends")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

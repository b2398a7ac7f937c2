"""`kdpipe`: the composition root, and the only place where an error becomes an exit code.

Importing this module brings neither ray nor torch nor pyarrow, so the same command serves a device's light install.
"""

import os
import sys

import typer

from pipeline.errors import ConfigError, KdpipeError
from pipeline.files import refused
from workers.commands import (
    audit,
    clean,
    device,
    doctor,
    feed,
    gate,
    init,
    keys,
    labels,
    logs,
    operator,
    releases,
    report,
    rollout,
    run,
    status,
    stop,
    teachers,
    token,
)
from workers.edge.cli import app as edge_app
from workers.privacy import opt_out

CLUSTER_PACKAGES = frozenset(
    {"datasketch", "grpc_health", "grpc_reflection", "jinja2", "markupsafe", "obstore", "onnx", "onnxscript", "psutil", "pyarrow", "ray"}
    | {"scipy", "skops", "sklearn", "sqlalchemy", "torch"}
)

app = typer.Typer(
    name="kdpipe",
    help="Online distillation: teachers label a stream, students learn while they do, devices get what passed the gate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.command("feed")(feed.feed)
app.command("status")(status.status)
app.command("stop")(stop.stop)
app.command("logs")(logs.logs)
app.command("gate")(gate.gate)
app.command("report")(report.report)
app.command("clean")(clean.clean)
app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
app.add_typer(labels.app, name="labels")
app.add_typer(teachers.app, name="teachers")
app.add_typer(token.app, name="token")
app.add_typer(keys.app, name="keys")
app.add_typer(releases.app, name="releases")
app.add_typer(rollout.app, name="rollout")
app.add_typer(device.app, name="device")
app.add_typer(audit.app, name="audit")
app.add_typer(operator.app, name="operator")
app.add_typer(edge_app, name="edge")


class MissingExtraError(ConfigError):
    """A verb of the cluster was asked of a device's light install."""

    def __init__(self, package: str) -> None:
        super().__init__("this install", f"no package {package!r}", "the cluster extra", "pip install 'kdpipe[cluster]'")
        self.args = (package,)


def main() -> None:
    """Entry point: run the command, turn an error into one line and its exit code."""
    opt_out(os.environ)
    try:
        app()
    except KdpipeError as error:
        sys.exit(_tell(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in CLUSTER_PACKAGES:
            raise
        sys.exit(_tell(MissingExtraError(package)))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        found = refused(error)
        if found is None:
            raise
        sys.exit(_tell(found))


def _tell(error: KdpipeError) -> int:
    sys.stdout.flush()
    typer.echo(f"kdpipe: {error}", err=True)
    return error.exit_code


if __name__ == "__main__":
    main()

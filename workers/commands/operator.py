"""`kdpipe operator`: who may do what at an orchestrator."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from workers.commands.fleet_access import Where, open_operator

MAX_DAYS = 398
app = typer.Typer(help="Say who may do what at an orchestrator.", no_args_is_help=True, rich_markup_mode=None)
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run, or of an orchestrator, that has started here.")]
Role = Annotated[
    str, typer.Option("--role", metavar="ROLE", help="viewer (looks), operator (publishes, moves rollouts) or admin (tokens, revocations).")
]
Endpoint = Annotated[str, typer.Option("--endpoint", metavar="HOST:PORT", help="Where to reach the orchestrator; this machine by default.")]


@app.callback()
def operator() -> None:
    """Say who may do what at an orchestrator."""


@app.command("new")
def new(
    directory: Directory,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is: a person, or a script.")],
    role: Role,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the operator's file is written, mode 0600.")],
    endpoint: Endpoint = "",
    days: Annotated[int, typer.Option("--days", metavar="N", min=1, max=MAX_DAYS, help="How long it is valid.")] = 90,
) -> None:
    """Write an operator's file: a key and a certificate with a role. Needs the CA's key, so it runs where the orchestrator does."""
    from pipeline.errors import ConfigError
    from workers.orchestrator.access import role_named
    from workers.orchestrator.operator_file import OperatorFile, write_operator_file
    from workers.orchestrator.pki import CA_KEY_FILE, issue_operator
    from workers.orchestrator.ports import read_ports
    from workers.orchestrator.revocations import is_revoked

    chosen = role_named(role)
    if chosen is None:
        raise ConfigError("--role", f"{role!r:.40}", "viewer, operator or admin")
    folder = _orchestrator(directory)
    revoked = is_revoked(folder, name)
    if revoked:
        raise ConfigError("NAME", f"{name!r:.80} was revoked, which is for ever", "a name that was never revoked", "choose another one")
    path, now = folder / "pki" / CA_KEY_FILE, datetime.now(UTC)
    ca_pem, credentials = issue_operator(path, name=name, role=chosen, now=now, valid=timedelta(days=days))
    where = endpoint or f"127.0.0.1:{read_ports(folder).operator}"
    write_operator_file(out, OperatorFile(endpoint=where, ca_pem=ca_pem, credentials=credentials))
    typer.echo(f"wrote {out}: whoever has it is {name}, {role} at {where}, for {days} days")
    if revoked is None:
        typer.echo(f"the database is not in {folder}, so not looked at: if {name} was ever revoked, this file is refused")


@app.command("revoke")
def revoke(where: Where, name: Annotated[str, typer.Argument(metavar="NAME", help="Name that a file was made for.")]) -> None:
    """Refuse every certificate of this name from now on, for ever; who comes back gets another name."""
    with open_operator(where) as admin:
        admin.revoke_operator(name)
    typer.echo(f"{name}: refused from now on, for ever; names of certificates are not recorded, so check the spelling")


def _orchestrator(directory: Path) -> Path:
    """The orchestrator's folder: the one named, or that of a run."""
    from pipeline.errors import ConfigError

    for folder in (directory, directory / "fleet"):
        if (folder / "ports.json").exists():
            return folder
    raise ConfigError(str(directory), "no orchestrator that ever started", "the folder of a run, or of an orchestrator", "start it first")

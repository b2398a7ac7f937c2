"""`kdpipe keys show`: who may sign what, until when, and where the private keys are."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from workers.commands.keys.arguments import AsJson, Folder
from workers.commands.repository import repository
from workers.commands.tables import table_console

if TYPE_CHECKING:
    from workers.driver.keyring import Role


def show(directory: Folder, as_json: AsJson = False) -> None:
    """Show roles, their keys, thresholds and expiries, and warn of what expires soon; exit 7 where only offline keys can help."""
    from datetime import UTC, datetime

    from pipeline.errors import ReleaseError
    from workers.driver.keyring import roles_of, warnings_of

    roles = roles_of(repository(directory))
    now = datetime.now(UTC)
    warnings = warnings_of(roles, now=now)
    if as_json:
        facts = [{**asdict(role), "expires": role.expires.isoformat()} for role in roles]
        typer.echo(json.dumps({"roles": facts, "warnings": warnings}))
    else:
        _print(roles)
        for warning in warnings:
            typer.echo(f"warning: {warning}")
    if any(role.name in ("root", "targets") and role.expires <= now for role in roles):
        raise typer.Exit(ReleaseError.exit_code)


def _print(roles: "list[Role]") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("role", "version", "expires", "needs", "key", "its private key"):
        table.add_column(column, overflow="fold")
    for role in roles:
        head = (role.name, str(role.version), _expires(role), f"{role.threshold} of {len(role.keys)}")
        for place, key in enumerate(role.keys):
            where = f"{key.where.removeprefix('keys/')}, {key.kept}" if key.where else "not here"
            table.add_row(*(head if place == 0 else ("", "", "", "")), key.keyid[:8], where)
    table_console().print(table)


def _expires(role: "Role") -> str:
    until = f"{role.expires:%Y-%m-%d}"
    return until if role.each_s is None else f"each after {role.each_s // 86_400} days; the key {until}"

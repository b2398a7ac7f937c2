"""`kdpipe releases`: what was signed; one verb a file."""

import typer

from workers.commands.releases import lineage, ls, show, verify, yank

app = typer.Typer(help="Look at signed releases, check them, take one back.", no_args_is_help=True, rich_markup_mode=None)
app.command("ls")(ls.ls)
app.command("show")(show.show)
app.command("verify")(verify.verify)
app.command("yank")(yank.yank)
app.command("lineage")(lineage.lineage)

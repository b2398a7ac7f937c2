"""`kdpipe keys`: the keys that sign releases; one verb a file."""

import typer

from workers.commands.keys import init, rotate, show

app = typer.Typer(help="The keys that sign releases: make them, look at them, replace them.", no_args_is_help=True, rich_markup_mode=None)
app.command("init")(init.init)
app.command("show")(show.show)
app.command("rotate")(rotate.rotate)
app.command("renew")(rotate.renew)

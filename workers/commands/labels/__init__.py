"""`kdpipe labels`: looking at stored labels, repairing them and taking them elsewhere; one verb a file."""

import typer

from workers.commands.labels import advise, cost, export, gc, ls, repair, retry, show, verify

app = typer.Typer(help="Look at a run's stored labels, repair them, take them elsewhere.", no_args_is_help=True, rich_markup_mode=None)
app.command("ls")(ls.ls)
app.command("show")(show.show)
app.command("verify")(verify.verify)
app.command("repair")(repair.repair)
app.command("retry")(retry.retry)
app.command("gc")(gc.gc)
app.command("cost")(cost.cost)
app.command("export")(export.export)
app.command("advise")(advise.advise)

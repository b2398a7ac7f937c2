"""`kdpipe rollout`: bringing a release to devices, and stopping it; one verb a file."""

import typer

from workers.commands.rollout import abort, ls, pause, plan, resume, show, start, watch

app = typer.Typer(help="Bring a release to devices in waves, watch it, stop it.", no_args_is_help=True, rich_markup_mode=None)
app.command("plan")(plan.plan)
app.command("start")(start.start)
app.command("watch")(watch.watch)
app.command("pause")(pause.pause)
app.command("resume")(resume.resume)
app.command("abort")(abort.abort)
app.command("ls")(ls.ls)
app.command("show")(show.show)

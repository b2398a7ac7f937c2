"""`kdpipe labels cost`: what the stored labels took of the teacher's time, and what they were used for."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from workers.commands.labels.arguments import AsJson, Folder, open_labels

if TYPE_CHECKING:
    from pipeline.labels.cost import LabelsCost


def cost(directory: Folder, as_json: AsJson = False) -> None:
    """Teacher seconds spent, by generation and by teacher, and what each student would have asked for without stored labels.

    Spent: seconds that teachers were at work on what is in the log; without repairs and what was lost before its commit.
    Saved: labels of known content, times the mean seconds of a label that was asked for.
    "Once": the generation's new labels that a student read, times the same mean.
    "Each time": all labels it read, replays included, times the same.
    """
    from pipeline.labels.cost import labels_cost
    from pipeline.labels.log import LogReader
    from workers.driver.folder import RunFolder
    from workers.driver.records import trainings

    found = labels_cost(LogReader(open_labels(directory)).refresh(), trainings(RunFolder.existing(directory)))
    typer.echo(json.dumps(asdict(found)) if as_json else "\n".join(_lines(found)))


def _lines(found: "LabelsCost") -> Iterator[str]:
    if not found.rows:
        yield "nothing is labelled yet"
        return
    for spent in (*found.generations, *found.teachers):
        known = f", {spent.rows_reused:,} of them known" if spent.rows_reused else ""
        yield f"{spent.teacher_s:>12,.2f} s  {spent.rows:>9,} labels  {spent.of}{known}"
    asked_about = found.rows - found.rows_reused
    each = f", {1000 * found.teacher_s / asked_about:,.3g} ms each" if asked_about else ""
    yield f"{found.teacher_s:,.2f} teacher seconds for {asked_about:,} labels{each}"
    if found.rows_reused:
        yield f"{found.saved_s:,.2f} teacher seconds saved by {found.rows_reused:,} labels of known content"
    if not found.students:
        yield "no student's training is over yet"
        return
    yield "without stored labels, a student that asks for itself:"
    yield f"{'new':>9} {'once':>14} {'read':>14} {'each time':>14}"
    for asked in found.students:
        of = asked.training
        figures = f"{of.new_rows:>9,} {asked.once_s:>12,.2f} s {of.rows:>14,} {asked.each_time_s:>12,.2f} s"
        yield f"{figures}  student {of.student}, generation {of.generation}"
    read = sum(asked.training.rows for asked in found.students)
    yield f"{read:,} labels read, {read / found.rows:,.1f} for each that is there"

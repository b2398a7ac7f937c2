"""What the labels say of their own quality: how sure the teacher is, how far its members differ, how often the hard label agrees."""

from pipeline.labels.spread import EvidenceSpread, Histogram
from pipeline.report.facts import RunFacts
from pipeline.report.markup import number, percent
from pipeline.report.plot import HEIGHT, axes, columns, plane, svg
from pipeline.report.scale import Scale
from pipeline.report.section import Figure, Section, Table

TITLE = "Label evidence"


def evidence(facts: RunFacts) -> Section:
    spread, says = facts.spread, "Of every stored soft label that counts. A weighting policy may trust the sure ones more."
    if spread is None:
        return Section(id="labels", title=TITLE, says=says, missing="Nothing is labelled yet, or the labels could not be read.")
    bad = len(spread.unreadable)
    if not spread.rows:
        of_none = f"{bad} {'shard' if bad == 1 else 'shards'} could not be read." if bad else "All labels were forgotten or replaced."
        return Section(id="labels", title=TITLE, says=says, missing=f"No label counts. {of_none}")
    figures = [
        _figure("Entropy", "nats: 0 is sure, on the right the teacher guesses", spread.entropy_nats),
        _figure("Margin", "the first class's probability minus the second's: 1 is sure", spread.margin),
    ]
    if spread.disagreement_nats:
        figures.append(_figure("Disagreement", "nats between the members of the ensemble: 0 is one voice", spread.disagreement_nats))
    if spread.agreement:
        figures.append(_figure("Agreement with hard labels", _agreeing(spread, spread.agreement), spread.agreement))
    lacks = [] if spread.disagreement_nats else ["no disagreement (one teacher, not an ensemble)"]
    lacks += [] if spread.agreement else ["no agreement with hard labels (the stream has none)"]
    unread = f" {bad} {'shard' if bad == 1 else 'shards'} could not be read and {'is' if bad == 1 else 'are'} left out." if bad else ""
    not_there = f" There is {' and '.join(lacks)}." if lacks else ""
    return Section(id="labels", title=TITLE, says=f"{spread.rows:,} labels. {says}{not_there}{unread}", figures=figures)


def _agreeing(spread: EvidenceSpread, agreement: Histogram) -> str:
    share = spread.same_class / agreement.total
    return f"the teacher's probability of the hard label; its first class is that of {percent(share)} of {agreement.total:,}"


def _figure(title: str, means: str, found: Histogram) -> Figure:
    (left, right), (bottom, top) = plane()
    x = Scale(low=0.0, high=found.high, start=left, stop=right)
    y = Scale(low=0.0, high=1.06 * max(found.counts), start=bottom, stop=top)
    width = found.high / len(found.counts)
    ranges = [f"{number(place * width)} to {number((place + 1) * width)}" for place in range(len(found.counts))]
    says = f"{found.total:,} labels; most between {ranges[max(range(len(found.counts)), key=found.counts.__getitem__)]}"
    marks = columns(found.counts, x, y, colour="labels", says=lambda place: f"{ranges[place]}: {found.counts[place]:,} labels")
    return Figure(
        title=title,
        caption=f"{means[0].upper()}{means[1:]}.",
        svg=svg(title, says, HEIGHT, axes(x, y, x_label=title.lower(), y_label="labels"), marks),
        table=Table(
            head=(title.lower(), "labels"), rows=[[ranges[place], f"{count:,}"] for place, count in enumerate(found.counts) if count]
        ),
    )

"""What each version costs a device: size against latency of every one that was exported, and of the teacher."""

from pipeline.report.facts import RunFacts, Version
from pipeline.report.markup import amount_bytes, number, tag
from pipeline.report.plot import HEIGHT, axes, plane, svg
from pipeline.report.scale import scale
from pipeline.report.section import Figure, Key, Section, Table, colour_of


def footprints(facts: RunFacts) -> Section:
    says = "Every version by the bytes of graph and weights and the median time of one answer: one thread, on the machine that judged."
    judged = [version for version in facts.versions if version.verdict]
    if not judged:
        return Section(id="size", title="Size and latency", says=says, missing="No student is exported yet.")
    return Section(id="size", title="Size and latency", says=says, figures=[_figure(facts, judged)])


def _figure(facts: RunFacts, judged: list[Version]) -> Figure:
    spots = [(version.name, colour_of(facts.place_of(version.student)), *_of(version)) for version in judged]
    teacher = _teacher(facts)
    if teacher:
        spots.append(("teacher", "teacher", *teacher))
    (left, right), (bottom, top) = plane()
    x = scale([size for _, _, size, _ in spots], left, right, log=True)
    y = scale([max(ms, 1e-6) for _, _, _, ms in spots], bottom, top, log=True)
    newest = {version.name for version in facts.newest_with("verdict")} | {"teacher"}
    marks = []
    for name, colour, size, ms in spots:
        told = tag("title", f"{name}: {amount_bytes(size)}, {number(ms)} ms")
        kind = "spot" if name in newest else "spot faint"
        marks.append(
            tag("g", tag("circle", told, class_=kind, cx=x(size), cy=y(max(ms, 1e-6)), r=7 if name in newest else 5), class_=colour)
        )
    students = sorted({version.student for version in judged})
    keys = [Key(colour=colour_of(facts.place_of(student)), label=student) for student in students]
    older = " The newest version of each is strong, older ones are faint." if len(judged) > len(students) else ""
    smallest = min(judged, key=lambda version: _of(version)[0])
    title = f"{len(judged)} version" + ("s" if len(judged) > 1 else "")
    return Figure(
        title=title,
        caption=f"Both axes are logarithmic; lower left is better.{older}",
        svg=svg(
            f"Size and latency of {title}",
            f"The smallest is {smallest.name} with {amount_bytes(_of(smallest)[0])}",
            HEIGHT,
            axes(x, y, x_label="size", y_label="median ms", x_shown=_short_bytes),
            *marks,
        ),
        keys=[*keys, *([Key(colour="teacher", label="teacher")] if teacher else [])],
        table=Table(
            head=("", "size", "p50 ms", "p99 ms", "memory", "parameters"),
            rows=[_row(version) for version in judged]
            + ([["teacher", amount_bytes(teacher[0]), number(teacher[1]), "–", "–", "–"]] if teacher else []),
        ),
    )


def _of(version: Version) -> tuple[float, float]:
    assert version.verdict is not None
    candidate = version.verdict["report"]["candidate"]
    return float(candidate["size_bytes"]), float(candidate["latency_p50_ms"])


def _teacher(facts: RunFacts) -> tuple[float, float] | None:
    for version in reversed(facts.versions):
        if version.test and version.test["teacher"]["size_bytes"]:
            return float(version.test["teacher"]["size_bytes"]), float(version.test["teacher"]["latency_p50_ms"])
    return None


def _row(version: Version) -> list[str]:
    assert version.verdict is not None
    candidate, memory = version.verdict["report"]["candidate"], version.verdict["memory_bytes"]
    return [
        version.name,
        amount_bytes(candidate["size_bytes"]),
        number(candidate["latency_p50_ms"]),
        number(candidate["latency_p99_ms"]),
        "–" if memory is None else amount_bytes(memory),
        f"{version.verdict['export']['parameters']:,}",
    ]


def _short_bytes(size: float) -> str:
    for unit, letter in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:g} {letter}"
    return f"{size:g} B"

"""The whole page: one HTML file that asks nobody for anything. It has no script, and its policy forbids the browser to load any.

The template escapes whatever is not Markup; plots are made by `markup.tag`, which does the same.
"""

from collections.abc import Callable, Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined

from pipeline.report.calibration import calibration
from pipeline.report.confusion import confusion
from pipeline.report.cost import cost
from pipeline.report.curves import curves
from pipeline.report.evidence import evidence
from pipeline.report.facts import RunFacts
from pipeline.report.footprints import footprints
from pipeline.report.headline import headline, tiles
from pipeline.report.quality import quality
from pipeline.report.section import Section
from pipeline.report.verdicts import left_out, verdicts
from pipeline.report.weak_spots import weak_spots

SECTIONS: Sequence[Callable[[RunFacts], Section]] = (quality, curves, weak_spots, confusion, calibration, footprints, evidence, cost)
"""In the order of the page, after the gate's lines."""


def page(facts: RunFacts) -> str:
    """HTML, the same for the same facts."""
    here = resources.files(__package__)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(here.joinpath("page.html.j2").read_text())
    return template.render(
        facts=facts,
        headline=headline(facts),
        tiles=tiles(facts),
        verdicts=verdicts(facts),
        left_out=left_out(facts),
        sections=[section(facts) for section in SECTIONS],
        style=here.joinpath("page.css").read_text(),
    )

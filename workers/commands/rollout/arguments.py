"""What a rollout is to do, on the command line: the options that `plan` and `start` share, so that what was planned is what starts."""

from typing import TYPE_CHECKING, Annotated

import typer

from workers.commands.quantities import MOST_DEVICES, seconds, share, size, waves

if TYPE_CHECKING:
    from pipeline.rollout.comparison import Margins
    from workers.orchestrator.wishes import Wish

RolloutId = Annotated[str, typer.Argument(metavar="ROLLOUT", help="Its name; `kdpipe rollout ls FLEET` lists them.")]
Release = Annotated[str, typer.Argument(metavar="RELEASE", help="A published release: `small-000002`.")]
Population = Annotated[str, typer.Option("--population", "-p", metavar="NAME", help="Whose devices.")]
Name = Annotated[str, typer.Option("--id", metavar="NAME", help="Name of the rollout; POPULATION-RELEASE where none is given.")]
Waves = Annotated[
    str, typer.Option(help="How far each wave reaches, from the first device on: numbers of devices, shares, 100% at the end.")
]
Soak = Annotated[str, typer.Option(metavar="TIME", help="How long a wave is watched after its last device has a verdict: 90s, 10m, 2h.")]
Deadline = Annotated[str, typer.Option(metavar="TIME", help="A wave whose devices have no verdict by then halts.")]
Lost = Annotated[
    str, typer.Option("--lost-after", metavar="TIME", help="Silence after the switch that counts as a failure; 0 leaves it to the server.")
]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Only devices with this label; may be repeated.")]
Hardware = Annotated[list[str] | None, typer.Option("--hardware", metavar="CLASS", help="Only this hardware class; may be repeated.")]
Runtime = Annotated[str, typer.Option("--runtime", metavar="VERSION", help="Only devices whose onnxruntime is known to be as new.")]
Memory = Annotated[str, typer.Option("--free-memory", metavar="BYTES", help="Only devices with as much free memory, like 256M.")]
InFlight = Annotated[
    int,
    typer.Option("--in-flight", min=0, max=MOST_DEVICES, help="Devices that install at once, in the first wave and at least; 0: 10."),
]
InFlightShare = Annotated[
    str, typer.Option("--in-flight-share", metavar="SHARE", help="The same, of the population, from the second wave on.")
]
Bandwidth = Annotated[
    str, typer.Option(metavar="BYTES", help="Most bytes a second that offers may ask of the network, like 10M; 0: no limit.")
]
MarginOptions = Annotated[
    list[str] | None,
    typer.Option("--margin", metavar="METRIC=X", help="How much worse is no harm: latency=1.25 (times), agreement=0.02, confidence=0.05."),
]
OnHalt = Annotated[str, typer.Option(metavar="hold|revert", help="After a halt devices keep the release, or go back by themselves.")]
ForNobody = Annotated[bool, typer.Option("--for-nobody", help="Also where no device is reached yet: it waits for the first one.")]

USUAL_WAVES, USUAL_SOAK, USUAL_DEADLINE, USUAL_IN_FLIGHT_SHARE = "1%,10%,100%", "10m", "1h", "5%"


def wish_of(
    *,
    release: str,
    population: str,
    name: str,
    waves_: str,
    soak: str,
    deadline: str,
    lost_after: str,
    labels: list[str] | None,
    hardware: list[str] | None,
    runtime: str,
    free_memory: str,
    in_flight: int,
    in_flight_share: str,
    bandwidth: str,
    margins: list[str] | None,
    on_halt: str,
) -> "Wish":
    """Raises typer.BadParameter."""
    from pipeline.rollout.targeting import Selector
    from workers.orchestrator.wishes import Wish

    if on_halt not in ("hold", "revert"):
        raise typer.BadParameter(f"--on-halt {on_halt!r}; expected hold or revert")
    stem = release.removeprefix("releases/").removesuffix(".kdpb")
    selector = Selector(
        labels=tuple(sorted(labels or ())),
        hardware=tuple(sorted(hardware or ())),
        runtime_at_least=runtime,
        free_memory_bytes=size(free_memory),
    )
    return Wish(
        rollout_id=name or f"{population}-{stem}",
        population=population,
        target=f"releases/{stem}.kdpb",
        waves=waves(waves_),
        soak_s=seconds(soak),
        deadline_s=seconds(deadline),
        lost_after_s=seconds(lost_after),
        selector=selector,
        in_flight_first=in_flight,
        in_flight_share=share(in_flight_share),
        bytes_per_s=size(bandwidth),
        margins=_margins(margins or []),
        revert_on_halt=on_halt == "revert",
    )


def _margins(options: list[str]) -> "Margins | None":
    from dataclasses import replace

    from pipeline.rollout.comparison import USUAL_MARGINS

    fields = {"latency": "latency_ratio", "agreement": "agreement_drop", "confidence": "confidence_drop"}
    margins = USUAL_MARGINS
    for option in options:
        metric, _, value = option.partition("=")
        try:
            margins = replace(margins, **{fields[metric]: float(value)})
        except (KeyError, ValueError) as error:
            raise typer.BadParameter(f"--margin {option!r}; expected latency=X, agreement=X or confidence=X") from error
    return margins if options else None

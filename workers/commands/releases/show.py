"""`kdpipe releases show`: what the release key says of one release, and what its bundle says of itself."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from workers.commands.releases.arguments import AsJson, Folder, Name
from workers.commands.repository import repository

if TYPE_CHECKING:
    from pipeline.releases.bundle import Bundle
    from workers.driver.catalogue import Release


def show(directory: Folder, name: Name, as_json: AsJson = False) -> None:
    """Show one release: its signed facts, and the manifest in its bundle."""
    from pipeline.releases.bundle import open_bundle
    from workers.driver.catalogue import find, releases_of

    release = find(releases_of(repository(directory)), name)
    bundle = open_bundle(release.bundle) if release.bundle else None
    if as_json:
        facts = {
            "path": release.path,
            "digest": release.digest,
            "state": release.state,
            "target": asdict(release.target) if release.target else None,
            "yank": asdict(release.yank) if release.yank else None,
            "manifest": bundle.manifest.to_json() if bundle else None,
            "members": dict(bundle.sizes_bytes) if bundle else None,
        }
        typer.echo(json.dumps(facts))
    else:
        typer.echo("\n".join([*_signed(release), *(_bundled(bundle) if bundle else ["  its bundle is not here"])]))


def _signed(release: "Release") -> list[str]:
    lines = [f"{release.path}: {release.state}", f"  sha256      {release.digest}"]
    if release.yank:
        return [*lines, f"  yanked      {release.yank.reason}"]
    target = release.target
    assert target is not None
    return [
        *lines,
        f"  bundle      {target.length:,} bytes, generation {target.generation}",
        f"  floor       {_floor(target.security_floor)}",
        f"  hardware    {', '.join(target.hardware) or 'any'}, {target.memory_bytes:,} bytes of memory",
    ]


def _bundled(bundle: "Bundle") -> list[str]:
    m = bundle.manifest
    tolerance = f"{m.tolerance.max_probability_difference} of probability, {m.tolerance.min_agreement:.0%} agree"
    lines = [
        f"  input       {m.input.kind}, {m.input.width:,} wide, called {m.input.name!r}",
        f"  classes     {', '.join(m.classes)}; temperature {m.temperature:.4g}",
        f"  golden      {len(bundle.golden)} samples; tolerance {tolerance}",
        f"  members     {', '.join(f'{name} {size:,}' for name, size in bundle.sizes_bytes.items())}",
        f"  teacher     {m.teacher}",
    ]
    if m.threshold:
        at_most = f"at most {m.threshold.max_false_positive_rate:.1%} of the others are called so"
        lines.append(f"  threshold   {m.positive} from {m.threshold.probability:.4f} on: {at_most}")
    if m.runtime:
        lines.append(f"  runtime     opset {m.runtime.opset}, IR {m.runtime.ir_version}; judged with onnxruntime {m.runtime.onnxruntime}")
    if m.origin:
        parent = f"grew from {m.origin.parent[:12]}" if m.origin.parent else "trained afresh"
        lines.append(f"  origin      generation {m.origin.generation}, {parent}; `kdpipe releases lineage` says more")
        lines.append(f"  gate        {m.origin.gate.get('summary', '')}")
    return lines


def _floor(number: int) -> str:
    return f"a device that ran it never runs a number below {number}" if number else "none: a device that ran it may go back to any number"

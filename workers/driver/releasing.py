"""From a version that passed to a signed release: bundle, deltas, its place in the release role's metadata, its line in the lineage.

Nothing here is random, so a driver killed between any two lines makes the same bytes and the same number again.
"""

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.config import ReleaseSection
from pipeline.labels.log import LogReader
from pipeline.labels.store import open_store
from pipeline.loop.generation import Opening
from pipeline.releases.bundle import build_bundle
from pipeline.releases.journal import finish
from pipeline.releases.lineage import Lineage, LineageEntry
from pipeline.releases.manifest import BundleManifest, Golden, InputSpec, RuntimeNeeds, Threshold
from pipeline.releases.origin import Origin
from pipeline.releases.repository import create_repository
from pipeline.releases.signer import ReleaseSigner
from pipeline.releases.target import ReleaseTarget, target_path
from workers.driver.context import RunContext
from workers.driver.folder import RunFolder, read_json, write_json
from workers.driver.labels import store_url
from workers.driver.records import section_of, student_files
from workers.driver.shrinking import predecessors, write_deltas
from workers.driver.standing import digest_of, start_of


def ensure_repository(context: RunContext) -> None:
    """The TUF repository and its keys, a change of them finished; says on the first run what the operator must move away."""
    finish(context.folder.keys, context.folder.releases)
    created = create_repository(context.folder.keys, context.folder.releases, now=datetime.now(UTC), unlock=context.unlock)
    if created.fresh:
        context.reporter.say(created.notice())


def lineage_of(folder: RunFolder) -> Lineage:
    return Lineage(folder.root / "lineage.jsonl")


def sign_student(context: RunContext, opening: Opening, name: str) -> str:
    """Bundle and sign one student; returns what to tell a person. Writes release.json last."""
    ensure_repository(context)
    files = student_files(context.folder, opening.generation, name)
    verdict = read_json(files.verdict)
    signer = ReleaseSigner.open(context.folder.keys, context.unlock)
    number = _number(signer, name, opening.generation)
    manifest, golden = _manifest(context, opening, name, number, verdict), _golden(verdict)
    bundle = build_bundle(
        files.bundle, manifest=manifest, graph=files.export / "graph.onnx", weights=files.export / "weights.bin", golden=golden
    )
    section = context.run.releases.get(name, ReleaseSection())
    before = predecessors(signer.targets.values(), student=name, release=number, most=context.run.fleet.deltas)
    bases = {target.digest: student_files(context.folder, target.generation, name).bundle for target in before}
    deltas = write_deltas(files.deltas, bundle, bases) if context.run.fleet.deltas else ()
    target = ReleaseTarget(
        path=target_path(name, number),
        digest=bundle.sha256,
        length=bundle.length,
        student=name,
        release=number,
        generation=opening.generation,
        security_floor=min(section.security_floor, number),
        hardware=section.hardware,
        runtime=section.runtime,
        memory_bytes=verdict["memory_bytes"],
        deltas=deltas,
    )
    known = signer.targets.get(target.path)
    if known is None or known.digest != target.digest:  # else a killed driver signed it, as the run file was then
        signer.add(target, now=datetime.now(UTC))
    lineage_of(context.folder).append(
        LineageEntry(
            what="released",
            student=name,
            generation=opening.generation,
            parent=digest_of(start_of(context.folder, name)),
            teacher=verdict["teacher"],
            digest=bundle.sha256,
            passed=True,
            at_unix_s=int(time.time()),
            release=number,
            target=target.path,
        )
    )
    signed = signer.targets[target.path].deltas
    write_json(
        files.release,
        {
            "target": target.path,
            "digest": bundle.sha256,
            "length": bundle.length,
            "release": number,
            "deltas": [asdict(delta) for delta in signed],
        },
    )
    least = min((delta.length for delta in signed), default=bundle.length)
    return f"{name}: signed {target.path}, {bundle.length:,} bytes ({least:,} the shortest way), sha256 {bundle.sha256[:12]}"


def _manifest(context: RunContext, opening: Opening, name: str, number: int, verdict: dict[str, Any]) -> BundleManifest:
    return BundleManifest(
        student=name,
        release=number,
        classes=context.run.classes,
        input=InputSpec(kind=context.run.stream.kind, name=verdict["export"]["input_name"], width=verdict["export"]["width"]),
        temperature=verdict["export"]["temperature"],
        positive=context.run.positive,
        teacher=verdict["teacher"],
        memory_bytes=verdict["memory_bytes"],
        threshold=Threshold(**verdict["threshold"]) if verdict.get("threshold") else None,
        runtime=RuntimeNeeds(**verdict["runtime"]) if verdict.get("runtime") else None,
        origin=_origin(context, opening, name, verdict),
    )


def _golden(verdict: dict[str, Any]) -> list[Golden]:
    return [
        Golden(input=g["input"] if isinstance(g["input"], str) else tuple(g["input"]), probabilities=tuple(g["probabilities"]))
        for g in verdict["golden"]
    ]


def _origin(context: RunContext, opening: Opening, name: str, verdict: dict[str, Any]) -> Origin:
    """What the bundle says of where it came from."""
    labels = LogReader(open_store(store_url(context))).refresh()
    trained = read_json(student_files(context.folder, opening.generation, name).trained)
    return Origin(
        generation=opening.generation,
        parent=digest_of(start_of(context.folder, name)) if trained["warm"] else None,
        log=labels.log,
        first_window=labels.replay_floor(opening.generation),
        stop_window=labels.ends.get(opening.generation, len(labels.windows)),
        rows=trained["rows"],
        config=section_of(context.folder, opening.generation, name).model_dump(mode="json"),
        gate=verdict["report"],
    )


def _number(signer: ReleaseSigner, student: str, generation: int) -> int:
    """The release's number: the one that a killed driver signed for this generation, or the next."""
    signed = [t.release for t in signer.targets.values() if t.student == student and t.generation == generation]
    return signed[0] if signed else signer.next_release(student)

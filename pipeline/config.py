"""The run file: TOML in, frozen models out.

An unknown key is an error that names the known ones; a wrong type says where, what was found and what was expected. Each
part of the system gets its own section, never the whole. Paths are relative to the run file's folder unless absolute.
This module reads no environment and no clock; the caller hands it the text.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from pipeline.budgets import GateSection
from pipeline.toml_model import Section, parsed

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
"""A name that is safe as a file name, a metric label and a URL segment."""

Reference = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?$")]
"""`module:callable` from the user's own folder, or the bare name of something kdpipe ships."""

Options = Mapping[str, Any]

Strings = Annotated[tuple[str, ...], Field(strict=False)]  # TOML has lists only; what is in them stays strict
Shares = Annotated[tuple[float, ...], Field(strict=False)]


Amount = Annotated[float, Field(gt=0)]


class PrepareSection(Section):
    """A callable that makes data and teacher before the run; recipes use it. See `pipeline.recipes`."""

    use: Reference
    """`module:callable` that writes the files the other sections name; a recipe's run file names the one kdpipe ships with it."""
    options: Options = {}
    """Passed to it whole, as its argument `options`."""


class SourceSection(Section):
    """Where samples come from: files by glob, or a callable of the user's that returns a `Source`."""

    path: str | None = None
    """File, folder or glob of .jsonl, .csv, .parquet, .arrow, .feather, also below s3://, gs://, az://; for `images`, a folder on disk."""
    use: Reference = "files"
    """`files`, `images`, or a callable that returns a `Source`; see docs/sources.md."""
    options: Options = {}
    """Passed to the callable as keyword arguments."""
    input: str = "text"
    """Column the teacher and the student see."""
    kind: Literal["text", "floats"] = "text"
    """What a sample's input is: text, or a fixed number of numbers."""
    id: str | None = None
    """Column of a stable sample id; without one, the file's content and the row's number are the id."""
    label: str | None = None
    """Column of the hard label (a class name), where there is one."""

    @model_validator(mode="after")
    def _files_need_a_path(self) -> Self:
        if self.use in ("files", "images") and not self.path:
            raise ValueError("a source of files needs `path`, a file, folder or glob")
        return self


class MemberSection(Section):
    """One teacher of an ensemble."""

    use: Reference
    """As in `teacher.use`; not an ensemble again."""
    path: str | None = None
    """As in `teacher.path`."""
    options: Options = {}
    """As in `teacher.options`."""
    weight: float = Field(1.0, gt=0)
    """Share in the mean, against the other members' weights."""


class TeacherSection(Section):
    use: Reference
    """`sklearn`, `onnx`, `torch_export`, `transformers`, `ensemble` (of `members`), `openai` (a server), or your own `module:callable`."""
    path: str | None = None
    """Folder or file of the teacher's weights, for a teacher that kdpipe ships."""
    options: Options = {}
    """Passed to the callable as keyword arguments."""
    members: Annotated[tuple[MemberSection, ...], Field(strict=False)] = ()
    """The teachers of an `ensemble`; `options.space` is `probability` (a mixture) or `log` (a product)."""
    workers_min: int = Field(1, ge=1)
    """Fewest teacher actors."""
    workers_max: int = Field(1, ge=1)
    """Most teacher actors."""
    cpus: float = Field(1.0, gt=0)
    """CPUs of one teacher actor, as Ray counts them."""
    gpus: float = Field(0.0, ge=0)
    """GPUs of one teacher actor; a fraction shares one."""
    resources: Mapping[str, Amount] = {}
    """Resources of your cluster's own that one teacher actor takes, by name."""
    batch_rows: int = Field(64, ge=1)
    """Rows the teacher is given at once."""
    backend: Literal["eager", "compile"] = "eager"
    """How a PyTorch teacher is run; `compile` needs a C++ compiler."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of a PyTorch teacher; `bf16` is for GPUs that have it."""

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.workers_min > self.workers_max:
            raise ValueError(f"workers_min {self.workers_min} is above workers_max {self.workers_max}")
        return self

    @model_validator(mode="after")
    def _members_of_an_ensemble(self) -> Self:
        wrong = len(self.members) < 2 if self.use == "ensemble" else bool(self.members)
        if wrong or any(member.use == "ensemble" for member in self.members):
            found = f"use = {self.use!r} with {len(self.members)} members"
            raise ValueError(f"{found}; an ensemble has two or more, none an ensemble, and no other teacher has any")
        return self

    @property
    def threads(self) -> int:
        """Threads of one teacher actor, in every library that has a pool: the CPUs it leases, rounded up."""
        return ceil(self.cpus)


UNITS_PER_TEACHER = 3
"""In flight per teacher: one that is read, one that is labelled and one that is written."""


class LabellingSection(Section):
    store: str | None = Field(None, min_length=1)
    """Where labels are kept: a folder beside the run file, or s3://, gs:// or az://BUCKET/PREFIX; unset, in the run's own folder."""
    unit_rows: int = Field(128, ge=1)
    """Rows of one unit, the piece of work that is leased and committed."""
    unit_rows_max: int = Field(4096, ge=1)
    """Units that take a teacher less than 0.1 s are joined, up to so many rows and never more than a window's."""
    window_rows: int = Field(1024, ge=1)
    """Rows of a full window, the unit of shuffling and replay."""
    lead_max: int = Field(1_000_000, ge=1)
    """Most rows that committed labels may run ahead of the slowest student in training."""
    lease_s: float = Field(300.0, gt=0)
    """A unit whose teacher is silent for so long is given to another."""
    canary_rows: int = Field(8, ge=0)
    """Rows that every teacher actor answers when it starts and now and then; one that answers otherwise is replaced. 0 turns it off."""
    canary_every_s: float = Field(300.0, gt=0)
    """How often a teacher actor answers them again."""
    canary_tolerance: float | None = Field(None, ge=0, le=1)
    """Greatest total variation from what most say; by default 0.01, and 0.05 for answers in half precision."""
    free_disk_bytes: int = Field(256 * 2**20, ge=0)
    """Below this much free disk labelling pauses."""
    codec: Literal["auto", "dense_fp16", "top_k", "sampled"] = "auto"
    """How soft labels are stored; `auto` keeps every class up to 256 classes, and `top_k` above."""
    codec_k: int = Field(64, ge=1)
    """Classes that `top_k` keeps of each label."""
    codec_draws: int = Field(64, ge=1, le=2**16 - 1)
    """Draws that `sampled` keeps of each label."""
    reuse: bool = True
    """Whether a row whose input has a label by the same teacher and codec takes that label. Every sample stays one of its own."""
    embedding: bool = False
    """Whether what the teacher sees in a sample (its `embedding_BD`) is kept beside the label, in half precision."""
    mixed_teachers: bool = False
    """Whether a log may hold labels of different teachers and students learn from all; else a teacher that changed is refused."""
    keep_bytes: int | None = Field(None, ge=0)
    """Most bytes of labels to keep when a generation begins; older windows go. Unset, labels are kept for ever."""
    keep_days: float | None = Field(None, gt=0)
    """Labels of generations whose last label is older go when a generation begins."""


class StudentSection(Section):
    use: Reference = "byte_conv"
    """A model that kdpipe ships, or a callable that returns a torch module."""
    options: Options = {}
    """Passed to the model as keyword arguments."""
    loss: Mapping[str, float] = {"kl": 1.0}
    """Name of a loss in `pipeline.distill.losses` -> weight."""
    loss_options: Mapping[str, Mapping[str, float]] = {}
    """Name of a loss -> its own numbers, such as `dkd = { alpha = 1, beta = 8 }`; unset, those of its authors."""
    temperature: float = Field(2.0, gt=0)
    """Softens teacher and student alike in the loss."""
    weighting: Mapping[str, float] = {}
    """Name of a weighting policy in `pipeline.distill.weighting` -> power, at most 10; several are multiplied.
    Empty: every sample counts the same."""
    weighting_options: Mapping[str, Mapping[str, float]] = {}
    """Name of a policy -> its own numbers, such as `hard_label = { least = 0.1 }`."""
    batch: int = Field(32, ge=1)
    """Samples of one optimiser step, over all workers."""
    steps: int = Field(1200, ge=1)
    """Optimiser steps of one generation: one live pass over the new labels, then replays until this many."""
    learning_rate: float = Field(3e-3, gt=0)
    """Peak, after the warm-up."""
    weight_decay: float = Field(1e-2, ge=0)
    """Of AdamW."""
    warmup_steps: int = Field(50, ge=0)
    """Steps over which the learning rate rises from 0."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of a step's gradient."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the student's arithmetic in training; weights, losses and optimiser stay float32."""
    accumulate: int = Field(1, ge=1)
    """Parts in which a worker takes its share of a batch through the student, where all of it would not fit into memory."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of the running average of the weights (EMA), which then ships in place of the last step's; 0 keeps none."""
    checkpoint_every_steps: int = Field(200, ge=1)
    """A killed trainer repeats at most so many steps, and those it took while a checkpoint was being written."""
    cpus: float = Field(0.5, gt=0)
    """CPUs of one trainer worker, as Ray counts them; fractions let several students share a core."""
    gpus: float = Field(0.0, ge=0)
    """GPUs of one trainer worker."""
    workers: int | Annotated[tuple[int, ...], Field(strict=False)] = 1
    """Trainer workers of this student; `[1, 4]` lets their number follow what the cluster has room for. See docs/students.md."""

    @field_validator("workers", mode="before")
    @classmethod
    def _workers_are_a_number_or_a_range(cls, found: Any) -> Any:
        ends = list(found) if isinstance(found, list | tuple) else [found, found]
        if len(ends) != 2 or any(type(end) is not int for end in ends) or not 1 <= ends[0] <= ends[1]:
            raise ValueError(f"{found!r} is neither a number of workers nor a range of them, such as 2 or [1, 4]")
        return tuple(ends) if ends[0] < ends[1] else ends[0]

    @property
    def workers_least(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def workers_most(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


TRAINING_RESOURCES = frozenset({"cpus", "gpus", "workers", "checkpoint_every_steps"})
"""Keys of a student that change how it is trained, not what it becomes: what was trained outlives a change of them."""


class ReleaseSection(Section):
    """What the release key says of a student's releases. Changes nothing of its training."""

    security_floor: int = Field(0, ge=0)
    """Once a device ran a release, it never runs one of this student with a number below; at most its own number."""
    hardware: tuple[str, ...] = ()
    """Hardware classes that may install it, as devices name themselves (`kdpipe edge run --hardware-class`); empty is any."""
    runtime: str = Field("", pattern=r"^(\d{1,6}(\.\d{1,6}){0,3})?$")
    """Oldest onnxruntime that may install it, like 1.23; empty is any. A file that a device's runtime can't load fails there either way."""
    shadow_agreement_min: float = Field(0.5, ge=0, le=1)
    """A device refuses a release that surely agrees with the one it runs on a smaller share of its inputs; 0 refuses none. Not asked
    where the classes differ."""


class PopulationSection(Section):
    student: Name
    """The student whose releases these devices run."""
    devices: int = Field(3, ge=0)
    """Devices that `kdpipe run` starts on this machine; 0 where they enrol from elsewhere."""


class AskSection(Section):
    """Whether devices may ask the teacher. What they ask leaves the device: off, unless you say so. See docs/orchestrator.md."""

    teacher: bool = False
    """Whether the orchestrator runs the teacher, in a process of its own, and the devices of `kdpipe run` ask it."""
    below: float = Field(0.6, ge=0, le=1)
    """A device asks where its model is less sure than this, and answers with what the teacher says; 0 never."""
    share: float = Field(0.01, ge=0, le=1)
    """Share of all answers, drawn at random, that a device holds against the teacher's: rollouts compare that agreement."""
    per_hour: int = Field(60, ge=1)
    """Most questions of one device in an hour."""
    wait_ms: float = Field(300.0, gt=0, le=30_000)
    """How long a device that is unsure waits for the teacher, before it answers by itself."""
    all_per_s: float = Field(200.0, gt=0)
    """Most questions of all devices together in a second; more are told to ask later."""


class FleetSection(Section):
    host: str = "127.0.0.1"
    """Name or address that devices reach the orchestrator by."""
    fleet_port: int = Field(0, ge=0, le=65535)
    """0 picks a free port on the first run and keeps it."""
    enrolment_port: int = Field(0, ge=0, le=65535)
    """Devices without a certificate come here; 0 as above."""
    operator_port: int = Field(0, ge=0, le=65535)
    """The driver and people come here; 0 as above."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """The orchestrator's /metrics; 0 as above."""
    waves: Shares = (0.34, 1.0)
    """Shares of the population, cumulative; the first is the canary."""
    soak_s: float = Field(2.0, ge=0)
    """How long a wave is watched after its last device confirmed."""
    deadline_s: float = Field(120.0, gt=0)
    """A wave that is not through by then halts."""
    deltas: int = Field(3, ge=0, le=16)
    """Earlier releases of a student that a device can come from by a small delta; 0 makes devices fetch whole bundles."""
    ask: AskSection = AskSection()
    """Whether devices ask the teacher where they are unsure."""
    populations: Mapping[Name, PopulationSection]
    """Groups of devices, each running one student."""

    @model_validator(mode="after")
    def _waves_grow_to_one(self) -> Self:
        if not self.waves or list(self.waves) != sorted(set(self.waves)) or self.waves[0] <= 0 or self.waves[-1] != 1.0:
            raise ValueError(f"waves must grow from above 0 to 1.0, found {list(self.waves)}")
        return self


class RaySection(Section):
    address: str | None = None
    """Of a running cluster; none starts Ray on this machine."""
    cpus: int | None = Field(None, ge=1)
    """CPUs to offer, where Ray is started here; all of them by default."""


class MetricsSection(Section):
    """Where the driver serves `/metrics`; the orchestrator's port is `fleet.metrics_port`, devices pick free ones."""

    host: str = "127.0.0.1"
    """Address that the driver's /metrics listens on."""
    port: int = Field(0, ge=0, le=65535)
    """0 picks a free one; DIR/metrics.json says which."""


class RunFile(Section):
    """A whole run file. See docs/run-file.md."""

    version: Literal[1] = 1
    """Of this format."""
    name: Name
    """Names the run's folder."""
    seed: int = Field(1, ge=0)
    """Of every random choice; the same seed and data give the same order of samples."""
    classes: Strings = Field(min_length=2)
    """What teacher and students tell apart, in the order of their outputs."""
    positive: str | None = None
    """The class that AUC and recall at a fixed false-positive rate speak of; two classes only."""
    prepare: PrepareSection | None = None
    """Runs first, once."""
    stream: SourceSection
    """Samples to be labelled; may grow while the run lives."""
    labelled: SourceSection | None = None
    """Hard-labelled samples: what the honest control learns from."""
    validation: SourceSection
    """What choices are made and releases judged on."""
    test: SourceSection | None = None
    """Touched once, at the end, for the summary."""
    teacher: TeacherSection
    """The model whose answers are learnt."""
    labelling: LabellingSection = LabellingSection()
    """How the stream is cut and leased."""
    students: Mapping[Name, StudentSection] = Field(min_length=1)
    """Who learns; all of them read the same labels."""
    gate: GateSection = GateSection()
    """What a student must reach to ship."""
    releases: Mapping[Name, ReleaseSection] = Field(default_factory=dict)
    """By student: what is signed with its releases."""
    fleet: FleetSection
    """Where releases go."""
    ray: RaySection = RaySection()
    """Where teachers and trainers run."""
    metrics: MetricsSection = MetricsSection()
    """What the driver tells Prometheus."""

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes repeat: {list(self.classes)}")
        if self.positive is not None and (len(self.classes) != 2 or self.positive not in self.classes):
            raise ValueError(f"positive = {self.positive!r} must be one of exactly two classes, found {list(self.classes)}")
        for budget in ("auc_min", "recall_min"):
            if self.positive is None and getattr(self.gate, budget) is not None:
                raise ValueError(f"gate.{budget} needs `positive`, the class of the two that it speaks of")
        for name, population in self.fleet.populations.items():
            if population.student not in self.students:
                raise ValueError(
                    f"fleet.populations.{name}.student = {population.student!r} is no student; known: {', '.join(sorted(self.students))}"
                )
        for name in self.releases:
            if name not in self.students:
                raise ValueError(f"releases.{name} is no student; known: {', '.join(sorted(self.students))}")
        in_flight = self.teacher.workers_max * UNITS_PER_TEACHER * self.labelling.unit_rows
        largest = 2 * self.labelling.window_rows + in_flight
        if self.labelling.lead_max < largest:
            raise ValueError(
                f"labelling.lead_max = {self.labelling.lead_max} could stall: "
                f"it must be at least 2 windows and the rows in flight, {largest}"
            )
        return self


def load(text: str, *, where: str, overrides: Sequence[str] = ()) -> RunFile:
    """Parse and check a run file.

    `overrides` are `key.path=value` strings (values in TOML syntax; a bare word is a string). Raises ConfigError.
    """
    return parsed(RunFile, text, where=where, overrides=overrides)

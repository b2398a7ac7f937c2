"""The run file's `[gate]`: budgets of the file that ships. Left to others: measuring it, and judging by them (`pipeline.students.gate`)."""

from pydantic import Field

from pipeline.toml_model import Section


class GateSection(Section):
    """Budgets of the file that ships. `None` is no budget."""

    margin: float = Field(0.01, ge=0, le=1)
    """Non-inferiority margin against the incumbent, as a share of samples."""
    accuracy_min: float | None = Field(None, ge=0, le=1)
    """Least share of right answers, where validation has hard labels."""
    agreement_min: float | None = Field(0.8, ge=0, le=1)
    """Least share of samples on which student and teacher name the same class."""
    auc_min: float | None = Field(None, ge=0, le=1)
    """Least area under the ROC curve of the class `positive`."""
    recall_min: float | None = Field(None, ge=0, le=1)
    """Least share of the class `positive` that is found at the false-positive rate `fixed_fpr`."""
    fixed_fpr: float = Field(0.01, gt=0, lt=1)
    """The false-positive rate at which recall is told."""
    ece_max: float | None = Field(None, ge=0, le=1)
    """Largest expected calibration error: how far a first class's probability is from how often it is right."""
    latency_p50_ms: float | None = Field(None, gt=0)
    """Median of single predictions, one thread, on the machine that judges."""
    latency_p99_ms: float | None = Field(None, gt=0)
    """Slowest 1 % of them."""
    size_max_bytes: int | None = Field(None, ge=1)
    """Largest graph and weights together; the bundle that carries them is a little larger."""
    memory_max_bytes: int | None = Field(None, ge=1)
    """Most memory of a process that runs the file, at its peak."""
    int8_loss_max: float = Field(0.005, ge=0, le=1)
    """Most accuracy that rounding to int8 may cost on `choose`. One that would lose more ships in dynamic int8, or in float, unless that
    may be chance (95 %, paired) and its answers are within 0.005 nats."""
    slice_rows_min: int = Field(30, ge=1)
    """Fewest samples of a slice (a class, a quarter by length, a value of a carried column) that is told and judged."""
    slice_right_min: float | None = Field(None, ge=0, le=1)
    """Least share right in every slice; missed where one is below it for sure (95 % of all slices together)."""
    slice_drop_max: float | None = Field(None, ge=0, le=1)
    """Most that a slice may lose against the incumbent; missed where it lost more for sure (paired bound, 95 % of all slices together)."""

"""The agent's series, `kdpipe_edge_*`. No device id in any label; every label set is there from the first scrape."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline.rollout.device import TERMINAL, DeviceRecord, State

SYNC_OUTCOMES = ("ok", "unreachable", "refused")
WAYS = ("delta", "packed", "whole")
PREDICT_OUTCOMES = ("ok", "invalid", "no_model", "model_failed", "busy")
ASK_WAYS = ("escalation", "audit")
ASK_OUTCOMES = ("answered", "late", "unreachable", "refused", "unusable", "paused", "over_budget", "too_long", "dropped")
_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class EdgeMetrics:
    """Counts what the agent does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._syncs = Counter("kdpipe_edge_syncs", "Sync calls, by outcome.", ["outcome"], registry=registry)
        self._predictions = Counter("kdpipe_edge_predictions", "Prediction requests, by outcome.", ["outcome"], registry=registry)
        self._predicted = Counter("kdpipe_edge_predicted_samples", "Samples answered.", registry=registry)
        self._latency = Histogram(
            "kdpipe_edge_predict_seconds", "Time of a prediction request, as the device sees it.", buckets=_BUCKETS_S, registry=registry
        )
        self._installs = Counter("kdpipe_edge_installs", "Installs that ended, by state.", ["state"], registry=registry)
        self._state = Gauge("kdpipe_edge_state", "1 for the state the device is in.", ["state"], registry=registry)
        self._restarts = Counter("kdpipe_edge_model_restarts", "Times the model process was started again.", registry=registry)
        self._bytes = Counter("kdpipe_edge_downloaded_bytes", "Bytes of bundles and deltas that arrived.", registry=registry)
        self._fetched = Counter("kdpipe_edge_fetched_bundles", "Bundles that arrived, by the way they came.", ["way"], registry=registry)
        self._refused = Counter("kdpipe_edge_deltas_refused", "Deltas that led to nothing; a longer way was taken.", registry=registry)
        self._queued = Gauge("kdpipe_edge_reports_queued", "Reports that the orchestrator has not acknowledged.", registry=registry)
        self._clock = Gauge("kdpipe_edge_clock_wrong", "1 while the wall clock contradicts signed time.", registry=registry)
        self._model = Gauge("kdpipe_edge_model_installed", "1 if a confirmed model answers.", registry=registry)
        self._asks = Counter(
            "kdpipe_edge_asks", "Inputs to ask the teacher about, by what became of it.", ["way", "outcome"], registry=registry
        )
        for way in ASK_WAYS:
            for outcome in ASK_OUTCOMES:
                self._asks.labels(way, outcome)
        for outcome in SYNC_OUTCOMES:
            self._syncs.labels(outcome)
        for outcome in PREDICT_OUTCOMES:
            self._predictions.labels(outcome)
        for way in WAYS:
            self._fetched.labels(way)
        for state in TERMINAL:
            self._installs.labels(state)
        for state in State:
            self._state.labels(state).set(0)

    def sync(self, outcome: str) -> None:
        self._syncs.labels(outcome).inc()

    def predicted(self, outcome: str, samples: int, seconds: float) -> None:
        self._predictions.labels(outcome).inc()
        if outcome == "ok":
            self._predicted.inc(samples)
            self._latency.observe(seconds)

    def asked(self, way: str, outcome: str, samples: int) -> None:
        self._asks.labels(way, outcome).inc(samples)

    def installed(self, state: State) -> None:
        if state in TERMINAL:
            self._installs.labels(state).inc()

    def restarted(self) -> None:
        self._restarts.inc()

    def downloaded(self, count: int) -> None:
        self._bytes.inc(count)

    def fetched(self, way: str, *, refused: int) -> None:
        self._fetched.labels(way).inc()
        self._refused.inc(refused)

    def show(self, record: DeviceRecord, *, clock_wrong: bool) -> None:
        for state in State:
            self._state.labels(state).set(state is record.state)
        self._queued.set(len(record.reports))
        self._clock.set(clock_wrong)
        self._model.set(record.incumbent is not None)

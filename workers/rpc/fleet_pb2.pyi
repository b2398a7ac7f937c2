from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeviceState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_STATE_UNSPECIFIED: _ClassVar[DeviceState]
    DEVICE_STATE_IDLE: _ClassVar[DeviceState]
    DEVICE_STATE_CHECK: _ClassVar[DeviceState]
    DEVICE_STATE_DOWNLOAD: _ClassVar[DeviceState]
    DEVICE_STATE_VERIFY: _ClassVar[DeviceState]
    DEVICE_STATE_STAGED: _ClassVar[DeviceState]
    DEVICE_STATE_SHADOW: _ClassVar[DeviceState]
    DEVICE_STATE_TRIAL: _ClassVar[DeviceState]
    DEVICE_STATE_CONFIRMED: _ClassVar[DeviceState]
    DEVICE_STATE_ROLLED_BACK: _ClassVar[DeviceState]
    DEVICE_STATE_FAILED: _ClassVar[DeviceState]
    DEVICE_STATE_INCOMPATIBLE: _ClassVar[DeviceState]

class FetchWay(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FETCH_WAY_UNSPECIFIED: _ClassVar[FetchWay]
    FETCH_WAY_WHOLE: _ClassVar[FetchWay]
    FETCH_WAY_PACKED: _ClassVar[FetchWay]
    FETCH_WAY_DELTA: _ClassVar[FetchWay]

class RolloutAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_ACTION_UNSPECIFIED: _ClassVar[RolloutAction]
    ROLLOUT_ACTION_APPROVE: _ClassVar[RolloutAction]
    ROLLOUT_ACTION_PAUSE: _ClassVar[RolloutAction]
    ROLLOUT_ACTION_RESUME: _ClassVar[RolloutAction]
    ROLLOUT_ACTION_ABORT_KEEP: _ClassVar[RolloutAction]
    ROLLOUT_ACTION_ABORT_REVERT: _ClassVar[RolloutAction]

class RolloutState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_STATE_UNSPECIFIED: _ClassVar[RolloutState]
    ROLLOUT_STATE_DRAFT: _ClassVar[RolloutState]
    ROLLOUT_STATE_APPROVED: _ClassVar[RolloutState]
    ROLLOUT_STATE_RUNNING: _ClassVar[RolloutState]
    ROLLOUT_STATE_COMPLETED: _ClassVar[RolloutState]
    ROLLOUT_STATE_HALTED: _ClassVar[RolloutState]
    ROLLOUT_STATE_ABORTED: _ClassVar[RolloutState]
    ROLLOUT_STATE_REVERTING: _ClassVar[RolloutState]
    ROLLOUT_STATE_REVERTED: _ClassVar[RolloutState]

class WavePhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAVE_PHASE_UNSPECIFIED: _ClassVar[WavePhase]
    WAVE_PHASE_OFFER: _ClassVar[WavePhase]
    WAVE_PHASE_SOAK: _ClassVar[WavePhase]
    WAVE_PHASE_GATE: _ClassVar[WavePhase]
DEVICE_STATE_UNSPECIFIED: DeviceState
DEVICE_STATE_IDLE: DeviceState
DEVICE_STATE_CHECK: DeviceState
DEVICE_STATE_DOWNLOAD: DeviceState
DEVICE_STATE_VERIFY: DeviceState
DEVICE_STATE_STAGED: DeviceState
DEVICE_STATE_SHADOW: DeviceState
DEVICE_STATE_TRIAL: DeviceState
DEVICE_STATE_CONFIRMED: DeviceState
DEVICE_STATE_ROLLED_BACK: DeviceState
DEVICE_STATE_FAILED: DeviceState
DEVICE_STATE_INCOMPATIBLE: DeviceState
FETCH_WAY_UNSPECIFIED: FetchWay
FETCH_WAY_WHOLE: FetchWay
FETCH_WAY_PACKED: FetchWay
FETCH_WAY_DELTA: FetchWay
ROLLOUT_ACTION_UNSPECIFIED: RolloutAction
ROLLOUT_ACTION_APPROVE: RolloutAction
ROLLOUT_ACTION_PAUSE: RolloutAction
ROLLOUT_ACTION_RESUME: RolloutAction
ROLLOUT_ACTION_ABORT_KEEP: RolloutAction
ROLLOUT_ACTION_ABORT_REVERT: RolloutAction
ROLLOUT_STATE_UNSPECIFIED: RolloutState
ROLLOUT_STATE_DRAFT: RolloutState
ROLLOUT_STATE_APPROVED: RolloutState
ROLLOUT_STATE_RUNNING: RolloutState
ROLLOUT_STATE_COMPLETED: RolloutState
ROLLOUT_STATE_HALTED: RolloutState
ROLLOUT_STATE_ABORTED: RolloutState
ROLLOUT_STATE_REVERTING: RolloutState
ROLLOUT_STATE_REVERTED: RolloutState
WAVE_PHASE_UNSPECIFIED: WavePhase
WAVE_PHASE_OFFER: WavePhase
WAVE_PHASE_SOAK: WavePhase
WAVE_PHASE_GATE: WavePhase

class EnrollRequest(_message.Message):
    __slots__ = ("token", "csr_der", "hardware_class", "agent_version")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_CLASS_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    token: str
    csr_der: bytes
    hardware_class: str
    agent_version: str
    def __init__(self, token: _Optional[str] = ..., csr_der: _Optional[bytes] = ..., hardware_class: _Optional[str] = ..., agent_version: _Optional[str] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("device_id", "certificate_pem")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    certificate_pem: bytes
    def __init__(self, device_id: _Optional[str] = ..., certificate_pem: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("certificate_pem", "csr_der", "proof")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    csr_der: bytes
    proof: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ..., csr_der: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("certificate_pem",)
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("incarnation", "sequence", "generation", "digest", "state", "failure_code", "detail", "shadow")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    sequence: int
    generation: int
    digest: str
    state: DeviceState
    failure_code: str
    detail: str
    shadow: ShadowEvidence
    def __init__(self, incarnation: _Optional[int] = ..., sequence: _Optional[int] = ..., generation: _Optional[int] = ..., digest: _Optional[str] = ..., state: _Optional[_Union[DeviceState, str]] = ..., failure_code: _Optional[str] = ..., detail: _Optional[str] = ..., shadow: _Optional[_Union[ShadowEvidence, _Mapping]] = ...) -> None: ...

class ShadowEvidence(_message.Message):
    __slots__ = ("samples", "agreed", "latency_p50_ms", "latency_p99_ms", "incumbent_latency_p50_ms", "memory_bytes", "golden_only")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P99_MS_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_LATENCY_P50_MS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_ONLY_FIELD_NUMBER: _ClassVar[int]
    samples: int
    agreed: int
    latency_p50_ms: float
    latency_p99_ms: float
    incumbent_latency_p50_ms: float
    memory_bytes: int
    golden_only: bool
    def __init__(self, samples: _Optional[int] = ..., agreed: _Optional[int] = ..., latency_p50_ms: _Optional[float] = ..., latency_p99_ms: _Optional[float] = ..., incumbent_latency_p50_ms: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., golden_only: _Optional[bool] = ...) -> None: ...

class SyncRequest(_message.Message):
    __slots__ = ("reports", "running_digest", "assignment_generation", "hardware_class", "agent_version", "clock_wrong", "runtime_version", "free_memory_bytes", "serving", "arrival")
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_GENERATION_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_CLASS_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLOCK_WRONG_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_VERSION_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    running_digest: str
    assignment_generation: int
    hardware_class: str
    agent_version: str
    clock_wrong: bool
    runtime_version: str
    free_memory_bytes: int
    serving: ServingStats
    arrival: Arrival
    def __init__(self, reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ..., running_digest: _Optional[str] = ..., assignment_generation: _Optional[int] = ..., hardware_class: _Optional[str] = ..., agent_version: _Optional[str] = ..., clock_wrong: _Optional[bool] = ..., runtime_version: _Optional[str] = ..., free_memory_bytes: _Optional[int] = ..., serving: _Optional[_Union[ServingStats, _Mapping]] = ..., arrival: _Optional[_Union[Arrival, _Mapping]] = ...) -> None: ...

class Arrival(_message.Message):
    __slots__ = ("way", "fetched_bytes")
    WAY_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    way: FetchWay
    fetched_bytes: int
    def __init__(self, way: _Optional[_Union[FetchWay, str]] = ..., fetched_bytes: _Optional[int] = ...) -> None: ...

class ServingStats(_message.Message):
    __slots__ = ("answers", "confidence_mean", "latency_p50_ms", "asked", "agreed")
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_MEAN_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_MS_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    answers: int
    confidence_mean: float
    latency_p50_ms: float
    asked: int
    agreed: int
    def __init__(self, answers: _Optional[int] = ..., confidence_mean: _Optional[float] = ..., latency_p50_ms: _Optional[float] = ..., asked: _Optional[int] = ..., agreed: _Optional[int] = ...) -> None: ...

class SyncResponse(_message.Message):
    __slots__ = ("assignment", "acknowledged_incarnation", "acknowledged_sequence", "next_sync_s")
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_SYNC_S_FIELD_NUMBER: _ClassVar[int]
    assignment: bytes
    acknowledged_incarnation: int
    acknowledged_sequence: int
    next_sync_s: float
    def __init__(self, assignment: _Optional[bytes] = ..., acknowledged_incarnation: _Optional[int] = ..., acknowledged_sequence: _Optional[int] = ..., next_sync_s: _Optional[float] = ...) -> None: ...

class GetMetadataRequest(_message.Message):
    __slots__ = ("name", "max_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_bytes: int
    def __init__(self, name: _Optional[str] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class GetMetadataResponse(_message.Message):
    __slots__ = ("content",)
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    def __init__(self, content: _Optional[bytes] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("digest", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class AskRequest(_message.Message):
    __slots__ = ("text", "numbers")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    text: str
    numbers: Numbers
    def __init__(self, text: _Optional[str] = ..., numbers: _Optional[_Union[Numbers, _Mapping]] = ...) -> None: ...

class Numbers(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class AskResponse(_message.Message):
    __slots__ = ("classes", "probabilities", "teacher")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    TEACHER_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedScalarFieldContainer[str]
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    teacher: str
    def __init__(self, classes: _Optional[_Iterable[str]] = ..., probabilities: _Optional[_Iterable[float]] = ..., teacher: _Optional[str] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("population", "valid_s", "count")
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    VALID_S_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    population: str
    valid_s: float
    count: int
    def __init__(self, population: _Optional[str] = ..., valid_s: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...

class CreateTokenResponse(_message.Message):
    __slots__ = ("tokens", "enrolment_port", "fleet_port")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENROLMENT_PORT_FIELD_NUMBER: _ClassVar[int]
    FLEET_PORT_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[str]
    enrolment_port: int
    fleet_port: int
    def __init__(self, tokens: _Optional[_Iterable[str]] = ..., enrolment_port: _Optional[int] = ..., fleet_port: _Optional[int] = ...) -> None: ...

class RevokeDeviceRequest(_message.Message):
    __slots__ = ("device_id",)
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    def __init__(self, device_id: _Optional[str] = ...) -> None: ...

class RevokeDeviceResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RevokeOperatorRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RevokeOperatorResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("release_metadata", "chunk")
    RELEASE_METADATA_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    release_metadata: bytes
    chunk: bytes
    def __init__(self, release_metadata: _Optional[bytes] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("snapshot_version",)
    SNAPSHOT_VERSION_FIELD_NUMBER: _ClassVar[int]
    snapshot_version: int
    def __init__(self, snapshot_version: _Optional[int] = ...) -> None: ...

class CreateRolloutRequest(_message.Message):
    __slots__ = ("rollout_id", "population", "target", "waves", "soak_s", "deadline_s", "lost_after_s", "selector", "in_flight_first", "in_flight_share", "bytes_per_s", "margins", "revert_on_halt")
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    WAVES_FIELD_NUMBER: _ClassVar[int]
    SOAK_S_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    LOST_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIRST_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_SHARE_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    MARGINS_FIELD_NUMBER: _ClassVar[int]
    REVERT_ON_HALT_FIELD_NUMBER: _ClassVar[int]
    rollout_id: str
    population: str
    target: str
    waves: _containers.RepeatedCompositeFieldContainer[WaveReach]
    soak_s: float
    deadline_s: float
    lost_after_s: float
    selector: Selector
    in_flight_first: int
    in_flight_share: float
    bytes_per_s: float
    margins: Margins
    revert_on_halt: bool
    def __init__(self, rollout_id: _Optional[str] = ..., population: _Optional[str] = ..., target: _Optional[str] = ..., waves: _Optional[_Iterable[_Union[WaveReach, _Mapping]]] = ..., soak_s: _Optional[float] = ..., deadline_s: _Optional[float] = ..., lost_after_s: _Optional[float] = ..., selector: _Optional[_Union[Selector, _Mapping]] = ..., in_flight_first: _Optional[int] = ..., in_flight_share: _Optional[float] = ..., bytes_per_s: _Optional[float] = ..., margins: _Optional[_Union[Margins, _Mapping]] = ..., revert_on_halt: _Optional[bool] = ...) -> None: ...

class WaveReach(_message.Message):
    __slots__ = ("share", "devices")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    share: float
    devices: int
    def __init__(self, share: _Optional[float] = ..., devices: _Optional[int] = ...) -> None: ...

class Selector(_message.Message):
    __slots__ = ("labels", "hardware", "runtime_at_least", "free_memory_bytes")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    hardware: _containers.RepeatedScalarFieldContainer[str]
    runtime_at_least: str
    free_memory_bytes: int
    def __init__(self, labels: _Optional[_Iterable[str]] = ..., hardware: _Optional[_Iterable[str]] = ..., runtime_at_least: _Optional[str] = ..., free_memory_bytes: _Optional[int] = ...) -> None: ...

class Margins(_message.Message):
    __slots__ = ("agreement_drop", "latency_ratio", "confidence_drop")
    AGREEMENT_DROP_FIELD_NUMBER: _ClassVar[int]
    LATENCY_RATIO_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_DROP_FIELD_NUMBER: _ClassVar[int]
    agreement_drop: float
    latency_ratio: float
    confidence_drop: float
    def __init__(self, agreement_drop: _Optional[float] = ..., latency_ratio: _Optional[float] = ..., confidence_drop: _Optional[float] = ...) -> None: ...

class CreateRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class PlanRolloutRequest(_message.Message):
    __slots__ = ("order",)
    ORDER_FIELD_NUMBER: _ClassVar[int]
    order: CreateRolloutRequest
    def __init__(self, order: _Optional[_Union[CreateRolloutRequest, _Mapping]] = ...) -> None: ...

class PlanRolloutResponse(_message.Message):
    __slots__ = ("waves", "left_out", "bundle_bytes", "sync_s")
    WAVES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SYNC_S_FIELD_NUMBER: _ClassVar[int]
    waves: _containers.RepeatedCompositeFieldContainer[PlannedWave]
    left_out: _containers.RepeatedCompositeFieldContainer[LeftOut]
    bundle_bytes: int
    sync_s: float
    def __init__(self, waves: _Optional[_Iterable[_Union[PlannedWave, _Mapping]]] = ..., left_out: _Optional[_Iterable[_Union[LeftOut, _Mapping]]] = ..., bundle_bytes: _Optional[int] = ..., sync_s: _Optional[float] = ...) -> None: ...

class PlannedWave(_message.Message):
    __slots__ = ("wave", "devices", "bytes", "starts_s", "ends_s", "device_ids")
    WAVE_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    STARTS_S_FIELD_NUMBER: _ClassVar[int]
    ENDS_S_FIELD_NUMBER: _ClassVar[int]
    DEVICE_IDS_FIELD_NUMBER: _ClassVar[int]
    wave: int
    devices: int
    bytes: int
    starts_s: float
    ends_s: float
    device_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, wave: _Optional[int] = ..., devices: _Optional[int] = ..., bytes: _Optional[int] = ..., starts_s: _Optional[float] = ..., ends_s: _Optional[float] = ..., device_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class LeftOut(_message.Message):
    __slots__ = ("reason", "devices")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    reason: str
    devices: int
    def __init__(self, reason: _Optional[str] = ..., devices: _Optional[int] = ...) -> None: ...

class GetRolloutEventsRequest(_message.Message):
    __slots__ = ("rollout_id", "after_sequence")
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    rollout_id: str
    after_sequence: int
    def __init__(self, rollout_id: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class GetRolloutEventsResponse(_message.Message):
    __slots__ = ("events", "is_last")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[RolloutEvent]
    is_last: bool
    def __init__(self, events: _Optional[_Iterable[_Union[RolloutEvent, _Mapping]]] = ..., is_last: _Optional[bool] = ...) -> None: ...

class RolloutEvent(_message.Message):
    __slots__ = ("sequence", "at_s", "kind", "facts_json", "hash")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AT_S_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FACTS_JSON_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    at_s: float
    kind: str
    facts_json: str
    hash: str
    def __init__(self, sequence: _Optional[int] = ..., at_s: _Optional[float] = ..., kind: _Optional[str] = ..., facts_json: _Optional[str] = ..., hash: _Optional[str] = ...) -> None: ...

class LabelDeviceRequest(_message.Message):
    __slots__ = ("device_id", "set", "remove")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    set: _containers.RepeatedScalarFieldContainer[str]
    remove: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, device_id: _Optional[str] = ..., set: _Optional[_Iterable[str]] = ..., remove: _Optional[_Iterable[str]] = ...) -> None: ...

class LabelDeviceResponse(_message.Message):
    __slots__ = ("device",)
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    device: Device
    def __init__(self, device: _Optional[_Union[Device, _Mapping]] = ...) -> None: ...

class ControlRolloutRequest(_message.Message):
    __slots__ = ("rollout_id", "action")
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    rollout_id: str
    action: RolloutAction
    def __init__(self, rollout_id: _Optional[str] = ..., action: _Optional[_Union[RolloutAction, str]] = ...) -> None: ...

class ControlRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class GetRolloutRequest(_message.Message):
    __slots__ = ("rollout_id",)
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    rollout_id: str
    def __init__(self, rollout_id: _Optional[str] = ...) -> None: ...

class GetRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("rollout_id", "population", "target", "digest", "state", "phase", "wave", "waves", "devices", "offered", "confirmed", "failed", "lost", "reason", "paused", "incompatible", "acknowledged", "soak_s", "soaks_until_unix_s", "wave_views", "install_tests", "comparisons", "created_unix_s", "changed_unix_s", "head_sequence", "head_hash", "halted_because", "arrivals")
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    WAVE_FIELD_NUMBER: _ClassVar[int]
    WAVES_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    OFFERED_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    INCOMPATIBLE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    SOAK_S_FIELD_NUMBER: _ClassVar[int]
    SOAKS_UNTIL_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    WAVE_VIEWS_FIELD_NUMBER: _ClassVar[int]
    INSTALL_TESTS_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    CHANGED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    HEAD_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HEAD_HASH_FIELD_NUMBER: _ClassVar[int]
    HALTED_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    ARRIVALS_FIELD_NUMBER: _ClassVar[int]
    rollout_id: str
    population: str
    target: str
    digest: str
    state: RolloutState
    phase: WavePhase
    wave: int
    waves: int
    devices: int
    offered: int
    confirmed: int
    failed: int
    lost: int
    reason: str
    paused: bool
    incompatible: int
    acknowledged: int
    soak_s: float
    soaks_until_unix_s: float
    wave_views: _containers.RepeatedCompositeFieldContainer[Wave]
    install_tests: _containers.RepeatedCompositeFieldContainer[InstallTest]
    comparisons: _containers.RepeatedCompositeFieldContainer[MetricComparison]
    created_unix_s: float
    changed_unix_s: float
    head_sequence: int
    head_hash: str
    halted_because: str
    arrivals: _containers.RepeatedCompositeFieldContainer[ArrivalCount]
    def __init__(self, rollout_id: _Optional[str] = ..., population: _Optional[str] = ..., target: _Optional[str] = ..., digest: _Optional[str] = ..., state: _Optional[_Union[RolloutState, str]] = ..., phase: _Optional[_Union[WavePhase, str]] = ..., wave: _Optional[int] = ..., waves: _Optional[int] = ..., devices: _Optional[int] = ..., offered: _Optional[int] = ..., confirmed: _Optional[int] = ..., failed: _Optional[int] = ..., lost: _Optional[int] = ..., reason: _Optional[str] = ..., paused: _Optional[bool] = ..., incompatible: _Optional[int] = ..., acknowledged: _Optional[int] = ..., soak_s: _Optional[float] = ..., soaks_until_unix_s: _Optional[float] = ..., wave_views: _Optional[_Iterable[_Union[Wave, _Mapping]]] = ..., install_tests: _Optional[_Iterable[_Union[InstallTest, _Mapping]]] = ..., comparisons: _Optional[_Iterable[_Union[MetricComparison, _Mapping]]] = ..., created_unix_s: _Optional[float] = ..., changed_unix_s: _Optional[float] = ..., head_sequence: _Optional[int] = ..., head_hash: _Optional[str] = ..., halted_because: _Optional[str] = ..., arrivals: _Optional[_Iterable[_Union[ArrivalCount, _Mapping]]] = ...) -> None: ...

class ArrivalCount(_message.Message):
    __slots__ = ("way", "devices", "fetched_bytes")
    WAY_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    way: FetchWay
    devices: int
    fetched_bytes: int
    def __init__(self, way: _Optional[_Union[FetchWay, str]] = ..., devices: _Optional[int] = ..., fetched_bytes: _Optional[int] = ...) -> None: ...

class Wave(_message.Message):
    __slots__ = ("wave", "reach", "devices", "pending", "offered", "confirmed", "failed", "lost", "incompatible", "withdrawn")
    WAVE_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    OFFERED_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    INCOMPATIBLE_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    wave: int
    reach: WaveReach
    devices: int
    pending: int
    offered: int
    confirmed: int
    failed: int
    lost: int
    incompatible: int
    withdrawn: int
    def __init__(self, wave: _Optional[int] = ..., reach: _Optional[_Union[WaveReach, _Mapping]] = ..., devices: _Optional[int] = ..., pending: _Optional[int] = ..., offered: _Optional[int] = ..., confirmed: _Optional[int] = ..., failed: _Optional[int] = ..., lost: _Optional[int] = ..., incompatible: _Optional[int] = ..., withdrawn: _Optional[int] = ...) -> None: ...

class InstallTest(_message.Message):
    __slots__ = ("hardware_class", "confirmed", "failed", "evidence_nats", "bound_nats")
    HARDWARE_CLASS_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_NATS_FIELD_NUMBER: _ClassVar[int]
    BOUND_NATS_FIELD_NUMBER: _ClassVar[int]
    hardware_class: str
    confirmed: int
    failed: int
    evidence_nats: float
    bound_nats: float
    def __init__(self, hardware_class: _Optional[str] = ..., confirmed: _Optional[int] = ..., failed: _Optional[int] = ..., evidence_nats: _Optional[float] = ..., bound_nats: _Optional[float] = ...) -> None: ...

class MetricComparison(_message.Message):
    __slots__ = ("metric", "finding", "wave_devices", "control_devices", "wave_median", "control_median", "p_value", "alpha")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    FINDING_FIELD_NUMBER: _ClassVar[int]
    WAVE_DEVICES_FIELD_NUMBER: _ClassVar[int]
    CONTROL_DEVICES_FIELD_NUMBER: _ClassVar[int]
    WAVE_MEDIAN_FIELD_NUMBER: _ClassVar[int]
    CONTROL_MEDIAN_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    metric: str
    finding: str
    wave_devices: int
    control_devices: int
    wave_median: float
    control_median: float
    p_value: float
    alpha: float
    def __init__(self, metric: _Optional[str] = ..., finding: _Optional[str] = ..., wave_devices: _Optional[int] = ..., control_devices: _Optional[int] = ..., wave_median: _Optional[float] = ..., control_median: _Optional[float] = ..., p_value: _Optional[float] = ..., alpha: _Optional[float] = ...) -> None: ...

class GetFleetRequest(_message.Message):
    __slots__ = ("after_device_id", "page_size")
    AFTER_DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    after_device_id: str
    page_size: int
    def __init__(self, after_device_id: _Optional[str] = ..., page_size: _Optional[int] = ...) -> None: ...

class GetFleetResponse(_message.Message):
    __slots__ = ("devices", "rollouts", "next_after_device_id", "broken_rollouts")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BROKEN_ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    next_after_device_id: str
    broken_rollouts: _containers.RepeatedCompositeFieldContainer[BrokenRollout]
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ..., next_after_device_id: _Optional[str] = ..., broken_rollouts: _Optional[_Iterable[_Union[BrokenRollout, _Mapping]]] = ...) -> None: ...

class BrokenRollout(_message.Message):
    __slots__ = ("rollout_id", "population", "reason")
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    rollout_id: str
    population: str
    reason: str
    def __init__(self, rollout_id: _Optional[str] = ..., population: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("device_id", "population", "hardware_class", "running_digest", "state", "failure_code", "last_seen_unix_s", "revoked", "labels", "runtime_version", "free_memory_bytes", "agent_version", "assigned_target", "assigned_digest", "serving", "arrival")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_CLASS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CODE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_VERSION_FIELD_NUMBER: _ClassVar[int]
    FREE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_TARGET_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    population: str
    hardware_class: str
    running_digest: str
    state: DeviceState
    failure_code: str
    last_seen_unix_s: float
    revoked: bool
    labels: _containers.RepeatedScalarFieldContainer[str]
    runtime_version: str
    free_memory_bytes: int
    agent_version: str
    assigned_target: str
    assigned_digest: str
    serving: ServingStats
    arrival: Arrival
    def __init__(self, device_id: _Optional[str] = ..., population: _Optional[str] = ..., hardware_class: _Optional[str] = ..., running_digest: _Optional[str] = ..., state: _Optional[_Union[DeviceState, str]] = ..., failure_code: _Optional[str] = ..., last_seen_unix_s: _Optional[float] = ..., revoked: _Optional[bool] = ..., labels: _Optional[_Iterable[str]] = ..., runtime_version: _Optional[str] = ..., free_memory_bytes: _Optional[int] = ..., agent_version: _Optional[str] = ..., assigned_target: _Optional[str] = ..., assigned_digest: _Optional[str] = ..., serving: _Optional[_Union[ServingStats, _Mapping]] = ..., arrival: _Optional[_Union[Arrival, _Mapping]] = ...) -> None: ...

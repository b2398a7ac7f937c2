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
    __slots__ = ("reports", "running_digest", "assignment_generation", "hardware_class", "agent_version", "clock_wrong")
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_GENERATION_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_CLASS_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLOCK_WRONG_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    running_digest: str
    assignment_generation: int
    hardware_class: str
    agent_version: str
    clock_wrong: bool
    def __init__(self, reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ..., running_digest: _Optional[str] = ..., assignment_generation: _Optional[int] = ..., hardware_class: _Optional[str] = ..., agent_version: _Optional[str] = ..., clock_wrong: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tokens: _Optional[_Iterable[str]] = ...) -> None: ...

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
    __slots__ = ("rollout_id", "population", "target", "waves", "soak_s", "deadline_s", "lost_after_s")
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    WAVES_FIELD_NUMBER: _ClassVar[int]
    SOAK_S_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    LOST_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    rollout_id: str
    population: str
    target: str
    waves: _containers.RepeatedScalarFieldContainer[float]
    soak_s: float
    deadline_s: float
    lost_after_s: float
    def __init__(self, rollout_id: _Optional[str] = ..., population: _Optional[str] = ..., target: _Optional[str] = ..., waves: _Optional[_Iterable[float]] = ..., soak_s: _Optional[float] = ..., deadline_s: _Optional[float] = ..., lost_after_s: _Optional[float] = ...) -> None: ...

class CreateRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("rollout_id", "population", "target", "digest", "state", "phase", "wave", "waves", "devices", "offered", "confirmed", "failed", "lost", "reason", "paused", "incompatible")
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
    def __init__(self, rollout_id: _Optional[str] = ..., population: _Optional[str] = ..., target: _Optional[str] = ..., digest: _Optional[str] = ..., state: _Optional[_Union[RolloutState, str]] = ..., phase: _Optional[_Union[WavePhase, str]] = ..., wave: _Optional[int] = ..., waves: _Optional[int] = ..., devices: _Optional[int] = ..., offered: _Optional[int] = ..., confirmed: _Optional[int] = ..., failed: _Optional[int] = ..., lost: _Optional[int] = ..., reason: _Optional[str] = ..., paused: _Optional[bool] = ..., incompatible: _Optional[int] = ...) -> None: ...

class GetFleetRequest(_message.Message):
    __slots__ = ("after_device_id", "page_size")
    AFTER_DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    after_device_id: str
    page_size: int
    def __init__(self, after_device_id: _Optional[str] = ..., page_size: _Optional[int] = ...) -> None: ...

class GetFleetResponse(_message.Message):
    __slots__ = ("devices", "rollouts", "next_after_device_id")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    next_after_device_id: str
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ..., next_after_device_id: _Optional[str] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("device_id", "population", "hardware_class", "running_digest", "state", "failure_code", "last_seen_unix_s", "revoked")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_CLASS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CODE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    population: str
    hardware_class: str
    running_digest: str
    state: DeviceState
    failure_code: str
    last_seen_unix_s: float
    revoked: bool
    def __init__(self, device_id: _Optional[str] = ..., population: _Optional[str] = ..., hardware_class: _Optional[str] = ..., running_digest: _Optional[str] = ..., state: _Optional[_Union[DeviceState, str]] = ..., failure_code: _Optional[str] = ..., last_seen_unix_s: _Optional[float] = ..., revoked: _Optional[bool] = ...) -> None: ...

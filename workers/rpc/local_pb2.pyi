from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Row(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("texts", "rows")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("classes", "predictions", "probabilities", "digest", "student", "release", "latency_ms", "model_ms", "by_teacher")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_MS_FIELD_NUMBER: _ClassVar[int]
    BY_TEACHER_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedScalarFieldContainer[str]
    predictions: _containers.RepeatedScalarFieldContainer[str]
    probabilities: _containers.RepeatedCompositeFieldContainer[Row]
    digest: str
    student: str
    release: int
    latency_ms: float
    model_ms: float
    by_teacher: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, classes: _Optional[_Iterable[str]] = ..., predictions: _Optional[_Iterable[str]] = ..., probabilities: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., digest: _Optional[str] = ..., student: _Optional[str] = ..., release: _Optional[int] = ..., latency_ms: _Optional[float] = ..., model_ms: _Optional[float] = ..., by_teacher: _Optional[_Iterable[bool]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Wanted(_message.Message):
    __slots__ = ("generation", "target", "digest")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    generation: int
    target: str
    digest: str
    def __init__(self, generation: _Optional[int] = ..., target: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class Installed(_message.Message):
    __slots__ = ("digest", "student", "release")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    student: str
    release: int
    def __init__(self, digest: _Optional[str] = ..., student: _Optional[str] = ..., release: _Optional[int] = ...) -> None: ...

class Input(_message.Message):
    __slots__ = ("kind", "width")
    KIND_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    kind: str
    width: int
    def __init__(self, kind: _Optional[str] = ..., width: _Optional[int] = ...) -> None: ...

class Arrival(_message.Message):
    __slots__ = ("digest", "way", "fetched_bytes", "bundle_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    way: str
    fetched_bytes: int
    bundle_bytes: int
    def __init__(self, digest: _Optional[str] = ..., way: _Optional[str] = ..., fetched_bytes: _Optional[int] = ..., bundle_bytes: _Optional[int] = ...) -> None: ...

class Asking(_message.Message):
    __slots__ = ("below", "share", "asked", "answered", "used", "last_failure")
    BELOW_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    LAST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    below: float
    share: float
    asked: int
    answered: int
    used: int
    last_failure: str
    def __init__(self, below: _Optional[float] = ..., share: _Optional[float] = ..., asked: _Optional[int] = ..., answered: _Optional[int] = ..., used: _Optional[int] = ..., last_failure: _Optional[str] = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("device", "agent_version", "state", "code", "detail", "generation", "wanted", "incumbent", "running_digest", "blocked", "clock_wrong", "next_sync_s", "reports_queued", "trusted_time", "input", "previous", "arrival", "downloaded_bytes", "wanted_bytes", "last_sync_unix_s", "asking")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    INCUMBENT_FIELD_NUMBER: _ClassVar[int]
    RUNNING_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    CLOCK_WRONG_FIELD_NUMBER: _ClassVar[int]
    NEXT_SYNC_S_FIELD_NUMBER: _ClassVar[int]
    REPORTS_QUEUED_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_TIME_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_FIELD_NUMBER: _ClassVar[int]
    DOWNLOADED_BYTES_FIELD_NUMBER: _ClassVar[int]
    WANTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_SYNC_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    ASKING_FIELD_NUMBER: _ClassVar[int]
    device: str
    agent_version: str
    state: str
    code: str
    detail: str
    generation: int
    wanted: Wanted
    incumbent: Installed
    running_digest: str
    blocked: str
    clock_wrong: bool
    next_sync_s: float
    reports_queued: int
    trusted_time: str
    input: Input
    previous: Installed
    arrival: Arrival
    downloaded_bytes: int
    wanted_bytes: int
    last_sync_unix_s: float
    asking: Asking
    def __init__(self, device: _Optional[str] = ..., agent_version: _Optional[str] = ..., state: _Optional[str] = ..., code: _Optional[str] = ..., detail: _Optional[str] = ..., generation: _Optional[int] = ..., wanted: _Optional[_Union[Wanted, _Mapping]] = ..., incumbent: _Optional[_Union[Installed, _Mapping]] = ..., running_digest: _Optional[str] = ..., blocked: _Optional[str] = ..., clock_wrong: _Optional[bool] = ..., next_sync_s: _Optional[float] = ..., reports_queued: _Optional[int] = ..., trusted_time: _Optional[str] = ..., input: _Optional[_Union[Input, _Mapping]] = ..., previous: _Optional[_Union[Installed, _Mapping]] = ..., arrival: _Optional[_Union[Arrival, _Mapping]] = ..., downloaded_bytes: _Optional[int] = ..., wanted_bytes: _Optional[int] = ..., last_sync_unix_s: _Optional[float] = ..., asking: _Optional[_Union[Asking, _Mapping]] = ...) -> None: ...

"""The shapes of requests and answers. Pydantic only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ResponseFormat = Literal["json", "verbose_json", "text", "srt", "vtt"]
Granularity = Literal["word", "segment"]


class TranscribeOptions(BaseModel):
    """Options of /transcribe, from the query or the form."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("", description="Name of the model; /v1/models lists them.")
    response_format: ResponseFormat = Field("json", description="Shape of the answer.")
    timestamp_granularities: list[Granularity] = Field(
        default_factory=list,
        alias="timestamp_granularities[]",
        description="Times to include, for json and verbose_json; may be repeated.",
    )
    case: Literal["lower", "upper"] = Field("lower", description="Case of the text.")
    timeout_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Longest time for the whole request, in seconds (504 after it).",
    )


class Word(BaseModel):
    """A word with its times in seconds; confidence is the lowest posterior of its letters."""

    word: str
    start: float
    end: float
    confidence: float


class Segment(BaseModel):
    """A run of words, such as fits a subtitle; times in seconds."""

    id: int
    start: float
    end: float
    text: str


class Timing(BaseModel):
    """What the request took on the server: in the queue and on the device, with how many clips beside it."""

    queue_s: float
    inference_s: float
    batch_size: int


class Transcription(BaseModel):
    """Answer in `json` and `verbose_json`; what was not asked for is left out."""

    task: Literal["transcribe"] | None = None
    text: str
    model: str
    language: str
    duration: float
    words: list[Word] | None = None
    segments: list[Segment] | None = None
    timing: Timing


class ClientMessage(BaseModel):
    """What a client of /stream sends as text; audio comes in binary messages."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Start(ClientMessage):
    """The first message: what the audio is, and what is wanted."""

    type: Literal["start"]
    sample_rate: int = Field(16_000, ge=8_000, le=48_000, description="Hz")
    encoding: Literal["pcm_s16le", "pcm_f32le"] = Field("pcm_s16le", description="mono samples")
    profile: str | None = Field(None, description="latency and context; /v1/models lists them")
    words: bool = Field(False, description="whether finals come with their words' times")


class Flush(ClientMessage):
    """Asks for all that was said so far, now; answered by `flushed` with the same id."""

    type: Literal["flush"]
    id: Annotated[str, Field(max_length=128)] | Annotated[int, Field(ge=-(2**53), le=2**53)] | None = None


class Keepalive(ClientMessage):
    """Keeps a silent stream open."""

    type: Literal["keepalive"]


class End(ClientMessage):
    """No more audio: the rest is said, then `done`."""

    type: Literal["end"]


CLIENT_MESSAGES: dict[str, type[ClientMessage]] = {
    "start": Start,
    "flush": Flush,
    "keepalive": Keepalive,
    "end": End,
}


class Error(BaseModel):
    type: str
    code: str
    message: str
    param: str | None = None


class ErrorAnswer(BaseModel):
    """Every error looks like this."""

    error: Error


class ProfileCard(BaseModel):
    """How streams of a model can be had: the length of a chunk, what it sees before it, and what a stream takes."""

    name: str
    chunk_ms: int
    left_context_s: float
    cache_bytes_per_stream: int
    slots: int


class ModelCard(BaseModel):
    """One model; sizes in bytes. Without `attention` and the rest where the model did not load."""

    id: str
    object: Literal["model"] = "model"
    owned_by: str = "mla-asr"
    status: Literal["loading", "ready", "failed"] = "loading"
    language: str = "en"
    attention: dict[str, Any] | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    cache_bytes_per_second: float | None = None
    device: str | None = None
    dtype: str | None = None
    sha256: str | None = None
    profiles: list[ProfileCard] | None = None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ModelHealth(BaseModel):
    status: Literal["loading", "ready", "failed"]
    reason: str | None = None


class Health(BaseModel):
    """Whether the server can take work, and where each model stands."""

    status: Literal["ok", "starting", "draining", "failed"]
    models: dict[str, ModelHealth]

"""The shapes of requests and answers. Pydantic only."""

from __future__ import annotations

from typing import Any, Literal

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


class Error(BaseModel):
    type: str
    code: str
    message: str
    param: str | None = None


class ErrorAnswer(BaseModel):
    """Every error looks like this."""

    error: Error


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

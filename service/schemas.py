"""The shapes of requests and answers, and options made of what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from service.errors import BadRequest

ResponseFormat = Literal["json", "verbose_json", "text", "srt", "vtt"]
Granularity = Literal["word", "segment"]
Decoding = Literal["greedy", "beam"]
MAX_HOT_WORDS, MAX_HOT_WORD_CHARACTERS = 100, 50
Boost = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
BOOST = "What each letter of the hot words earns, as a natural logarithm; more hears them where they were not said."
IGNORED = "Accepted, and ignored, as X-Ignored-Options tells."


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
    decoding: Decoding = Field(
        "greedy", description="beam searches for the likeliest text, and takes longer."
    )
    hot_words: str = Field(
        "",
        description="Words and phrases to prefer, parted by commas, with decoding=beam; at most 100, of 50 characters.",
    )
    hot_words_boost: Boost = Field(1.0, description=BOOST)
    timeout_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Longest time for the whole request, in seconds (504 after it); without it, the longer the audio, "
        "the longer.",
    )

    @field_validator("hot_words")
    @classmethod
    def _few_and_short(cls, value: str, info: ValidationInfo) -> str:
        check_hot_words(phrases(value), info.data.get("decoding"))
        return value


def phrases(text: str) -> tuple[str, ...]:
    """The phrases between commas, without those that are empty."""
    return tuple(phrase.strip() for phrase in text.split(",") if phrase.strip())


def check_hot_words(given: Sequence[str], decoding: Decoding | None) -> None:
    """Raise, as pydantic has it, where there are too many, one is too long, or nothing will look for them."""
    longest = max(map(len, given), default=0)
    if given and decoding == "greedy":
        raise PydanticCustomError("hot_words", "Hot words need decoding=beam")
    if len(given) > MAX_HOT_WORDS:
        raise PydanticCustomError(
            "hot_words",
            "{count} phrases; the limit is {limit}",
            {"count": len(given), "limit": MAX_HOT_WORDS},
        )
    if longest > MAX_HOT_WORD_CHARACTERS:
        raise PydanticCustomError(
            "hot_words",
            "A phrase of {count} characters; the limit is {limit}",
            {"count": longest, "limit": MAX_HOT_WORD_CHARACTERS},
        )


class OpenAIOptions(TranscribeOptions):
    """Options of /v1/audio/transcriptions: OpenAI's, and ours beside them."""

    stream: bool = Field(
        False, description="Send events as the text is made; for json and text, which give the same events."
    )
    language: str = Field(
        "",
        description="The model's own language; another is refused. A model that names none takes any, and the answer "
        "says what was given. X-Ignored-Options tells that it changes nothing.",
    )
    prompt: Any = Field(None, description=IGNORED)
    temperature: Any = Field(None, description=IGNORED)
    include: Any = Field(None, description=IGNORED)
    chunking_strategy: Any = Field(None, description=IGNORED)
    keywords: Any = Field(None, description=IGNORED)
    languages: Any = Field(None, description=IGNORED)
    known_speaker_names: Any = Field(None, description=IGNORED)
    known_speaker_references: Any = Field(None, description=IGNORED)

    @property
    def ignored(self) -> list[str]:
        """The options given that change nothing."""
        fields = type(self).model_fields
        idle = ["language", *["timestamp_granularities"] * (self.response_format != "verbose_json")]
        return sorted(n for n in self.model_fields_set if n in idle or fields[n].description == IGNORED)


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
    """What the request took on the server: in the queue and on the device, with how many clips beside it.

    A search is not in it: the Server-Timing header has that, and all else.
    """

    queue_s: float
    inference_s: float
    batch_size: int


class Transcription(BaseModel):
    """Answer in `json` and `verbose_json`; what was not asked for is left out."""

    task: Literal["transcribe"] | None = None
    text: str
    model: str
    language: str | None = None
    duration: float
    words: list[Word] | None = None
    segments: list[Segment] | None = None
    timing: Timing


class Usage(BaseModel):
    """OpenAI's measure of a request: seconds of audio."""

    type: Literal["duration"] = "duration"
    seconds: float


class OpenAITranscription(BaseModel):
    """OpenAI's answer in `json`."""

    text: str
    usage: Usage


class OpenAIWord(BaseModel):
    word: str
    start: float
    end: float


class OpenAISegment(Segment):
    """OpenAI's segment. What of it comes from how Whisper works has the value that says nothing is wrong.

    `avg_logprob` is the mean of the words' log confidences; `tokens` is empty.
    """

    seek: int = 0
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float = 0.0


class OpenAIVerbose(BaseModel):
    """OpenAI's answer in `verbose_json`."""

    task: Literal["transcribe"] = "transcribe"
    language: str
    duration: float
    text: str
    words: list[OpenAIWord] | None = None
    segments: list[OpenAISegment] | None = None
    usage: Usage


class TextDelta(BaseModel):
    """More of the text; the deltas, joined as they are, are the text."""

    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str


class TextDone(BaseModel):
    """The last event of a stream: the whole text."""

    type: Literal["transcript.text.done"] = "transcript.text.done"
    text: str


class Error(BaseModel):
    type: str
    code: str
    message: str
    param: str | None = None


class ErrorAnswer(BaseModel):
    """Every error looks like this."""

    error: Error


class ProfileCard(BaseModel):
    """How streams of a model can be had: the length of a chunk, what is heard behind it before it is said, what it sees
    before it, and what a stream takes: its cache, what the caches share, and, on a GPU, its part of a running step.
    """

    name: str
    chunk_ms: int
    lookahead_ms: int
    left_context_s: float
    cache_bytes_per_stream: int
    cache_bytes_shared: int
    step_bytes_per_stream: int
    slots: int


class ModelCard(BaseModel):
    """One model; sizes in bytes. Without `attention` and the rest where the model did not load.

    `language` is left out where the model's configuration names none; `created` is when it was loaded, in seconds since
    1970; `alias_of` names the model that an alias stands for.
    """

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "mla-asr"
    alias_of: str | None = None
    status: Literal["loading", "ready", "failed"] = "loading"
    language: str | None = None
    attention: dict[str, Any] | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    cache_bytes_per_second: float | None = None
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
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


Items = list[tuple[str, str]]
Options = TypeVar("Options", bound=TranscribeOptions)


def parse_options(items: Items, kind: type[Options]) -> Options:
    """Parse options given as pairs; of an option given twice the last counts, but granularities add up.

    Raises:
        BadRequest: naming the option, what was given, and the choices.
    """
    given: dict[str, Any] = {}
    for name, value in items:
        if name.removesuffix("[]") == "timestamp_granularities":
            given.setdefault("timestamp_granularities[]", []).append(value)
        else:
            given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _bad_option(error, kind) from None


def _bad_option(error: ValidationError, kind: type[TranscribeOptions]) -> BadRequest:
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0])[:100]
    if first["type"] == "extra_forbidden":
        known = ", ".join(f.alias or n for n, f in kind.model_fields.items())
        return BadRequest(f"no option {name!r}; choices: {known}", code="unknown_option", param=name)
    reason = f"{name} is {str(first['input'])[:100]!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return BadRequest(reason, code="invalid_option", param=name)

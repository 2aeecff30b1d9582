"""All settings: from the command line, else from MLA_ASR_* environment variables, else the defaults below."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from asr import ngram
from service import keys, spelling

MIB = 2**20


@dataclass(frozen=True)
class Profile:
    """How much of a live stream is heard at a time, how much of what came before it is still known, and how long what
    was heard waits until it is said.
    """

    name: str
    chunk_ms: int
    left_context_s: float
    lookahead_ms: int = 0


class Settings(BaseSettings):
    """Serve speech recognition over HTTP.

    Example: python -m service --port 8000 --models mha=mha --models mla=./checkpoints/mla --device cuda.
    Every option is also an environment variable: --max-audio-s is MLA_ASR_MAX_AUDIO_S.
    """

    model_config = SettingsConfigDict(
        env_prefix="MLA_ASR_",
        cli_implicit_flags=True,
        extra="forbid",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_hide_none_type=True,
    )

    models: Annotated[dict[str, str], NoDecode] = Field(
        {"mha": "mha", "mla": "mla"},
        min_length=1,
        description="name=source pairs (repeat the option, or part them by commas); "
        "a source is a bundled name, a folder or a hub id",
    )
    model_aliases: Annotated[dict[str, str], NoDecode] = Field(
        {},
        description="alias=name pairs: further names of models, for clients that ask for one of their own, such as "
        "whisper-1=mla",
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    device: str | None = Field(None, description="torch device, such as cpu or cuda:0; chosen when not given")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="type of weights and arithmetic; chosen when not given"
    )
    threads: int | None = Field(
        None, ge=1, description="threads of one operation on a CPU; chosen when not given"
    )

    max_upload_bytes: int = Field(200 * MIB, gt=0, description="largest request body (413 above)")
    max_audio_s: float = Field(3600.0, gt=0, description="longest clip (413 above)")
    max_timeout_s: float = Field(
        3900.0, gt=0, description="longest time for a request, upload included, whatever its timeout_s"
    )
    upload_timeout_s: float = Field(600.0, gt=0, description="longest time for an upload (408 above)")
    base_timeout_s: float = Field(
        120.0,
        gt=0,
        description="time for a request without timeout_s, from when its audio is decoded, beside timeout_per_audio_s",
    )
    timeout_per_audio_s: float = Field(
        1.0, ge=0, description="what each second of audio adds to base_timeout_s"
    )
    upload_idle_s: float = Field(30.0, gt=0, description="longest pause within an upload (408 above)")
    decode_timeout_s: float = Field(120.0, gt=0, description="longest time to decode one upload")
    max_decode_memory_bytes: int | None = Field(
        None,
        gt=0,
        description="memory for decoding one upload (413 above); when not given 1 GiB and what max_audio_s takes, "
        "which is 2 GiB for an hour",
    )
    decode_workers: int = Field(2, ge=1, description="processes that decode uploads")
    search_workers: int = Field(
        1, ge=1, description="processes that search with decoding=beam; they start when they are first needed"
    )
    search_lm: Literal["bundled", "none"] | Path = Field(
        "bundled",
        description="word n-gram that decoding=beam goes by: bundled, none, or an ARPA file, plain or gzip-compressed",
    )
    max_requests: int = Field(256, ge=1, description="requests in work at once (429 above)")
    max_connections: int | None = Field(
        None, ge=1, description="connections at once (503 above); else half the files it may open"
    )

    max_batch_frames: int = Field(
        6_000, ge=1, description="longest clip x number of clips in a batch, in 20 ms frames"
    )
    max_batch_items: int = Field(32, ge=1, description="clips in a batch")
    batch_window: int = Field(
        64, ge=1, description="how many of the oldest requests a batch is chosen from, by length"
    )
    batch_overhead_frames: float | None = Field(
        None,
        ge=0,
        description="what a batch costs beside its frames, in frames: no clip joins it that brings more padding; when "
        "not given it is learnt from the time that batches take",
    )
    max_queue_s: float = Field(
        20.0,
        gt=0,
        description="work waiting for the device, or for a search, at the speed that it shows (429 above)",
    )
    max_queue_audio_s: float = Field(
        3600.0, gt=0, description="audio waiting for the device, and audio of long clips in work (429 above)"
    )

    stream_memory: str = Field(
        "512MiB",
        description="memory for the caches of live streams, and on a GPU for their largest step, taken at the start "
        "and shared out equally to every model and profile: bytes, such as 2GiB, or a share of what is free on the "
        "device then, such as 0.5; 0 for no live streams",
    )
    stream_profiles: Annotated[dict[str, str], NoDecode] = Field(
        {"balanced": "480+160/10", "fast": "200+120/5", "long": "480+160/30"},
        min_length=1,
        description="name=chunk/context or name=chunk+lookahead/context pairs (repeat the option, or part them by "
        "commas): milliseconds of audio that are heard at a time, milliseconds more that are heard before it is said "
        "what is in them, and seconds before them that are still known; the first is the default",
    )
    cache_dtype: Literal["int8"] | None = Field(
        None, description="type of the caches; the model's own when not given"
    )
    stream_idle_s: float = Field(
        30.0,
        gt=0,
        description="longest pause in what a stream's client sends while it waits for no answer, or reads",
    )
    max_stream_s: float = Field(3600.0, gt=0, description="longest time for a stream")
    stream_buffer_s: float = Field(
        10.0, gt=0, description="audio of a stream that may wait; with more the server stops reading it"
    )
    max_message_bytes: int = Field(MIB, ge=4096, description="largest message of a stream")
    max_step_streams: int = Field(256, ge=1, description="streams in one step on the device")
    stream_wait_ms: float = Field(
        3.0, ge=0, description="longest time that a chunk waits for other streams' chunks to go with it"
    )
    clip_share: float = Field(
        0.2, gt=0, lt=1, description="share of the device that clips are sure of beside live streams"
    )
    max_live_batch_frames: int = Field(
        1_500,
        ge=1,
        description="max_batch_frames while there are live streams, which wait for a batch to end",
    )
    endpoint_silence_s: float = Field(
        1.2, gt=0, description="silence after text that ends a stream's segment"
    )
    endpoint_empty_s: float = Field(2.4, gt=0, description="silence that starts an empty segment anew")
    endpoint_longest_s: float = Field(
        20.0, gt=0, description="length at which a segment ends at its last space"
    )

    drain_delay_s: float = Field(
        1.0, ge=0, description="after SIGTERM: time to answer 503 to new requests before the port closes"
    )
    drain_timeout_s: int = Field(
        30, ge=1, description="after SIGTERM: time for accepted requests, and live streams' last words"
    )
    heartbeat_limit_s: float = Field(
        120.0,
        gt=0,
        description="how much longer than its audio a batch may take before /health/live and /health/ready turn 503",
    )
    spool_dir: Path | None = Field(
        None, description="folder for uploads in work; the system's when not given"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe log line"
    )
    log_format: Literal["text", "json"] = Field("text", description="form of the log's lines")
    log_transcripts: bool = Field(False, description="write what was said into the log")

    api_keys_file: Path | None = Field(
        None,
        description="file of API keys, such as a Docker secret: name:key or name:sha256$hash, one a line; read again "
        "when it changes. Without keys anyone may call",
    )
    api_keys: SecretStr | None = Field(
        None,
        description="the same, parted by commas or lines; best as MLA_ASR_API_KEYS: others on the machine can read a "
        "command line",
    )
    max_requests_per_key: int | None = Field(
        None, ge=1, description="requests and live streams of one key's name at once (429 above)"
    )
    open_metrics: bool = Field(False, description="/metrics without a key, where there are keys")
    cors_origins: Annotated[list[str], NoDecode] = Field(
        [],
        description="web pages that may read answers in a browser: https://host, parted by commas, or * for all",
    )

    @property
    def decode_memory_bytes(self) -> int:
        """The limit in force. The samples take 4 bytes each, 8 while blocks are joined; twice that is to spare."""
        return self.max_decode_memory_bytes or 1024 * MIB + int(self.max_audio_s * 16_000 * 16)

    def stream_budget_bytes(self, free_bytes: Callable[[], int]) -> int:
        """What `stream_memory` comes to; `free_bytes` is asked for what is free where it is a share of that."""
        amount = spelling.amount(self.stream_memory)
        return int(amount * free_bytes() if amount < 1 else amount)

    @property
    def profiles(self) -> list[Profile]:
        """What `stream_profiles` says."""
        return [Profile(name, *spelling.profile(name, sizes)) for name, sizes in self.stream_profiles.items()]

    @field_validator("search_lm")
    @classmethod
    def _readable(cls, value: str | Path) -> str | Path:
        if isinstance(value, Path):
            try:
                ngram.read(value)
            except (OSError, ValueError) as error:
                raise ValueError(f"{error}; choices: bundled, none, an ARPA file") from None
            ngram.read.cache_clear()  # the searches, in their own processes, read it themselves
        return value

    @field_validator("stream_memory", mode="before")
    @classmethod
    def _an_amount(cls, value: Any) -> str:
        spelling.amount(str(value))
        return str(value)

    @field_validator("stream_profiles")
    @classmethod
    def _sized(cls, value: dict[str, str]) -> dict[str, str]:
        for name, sizes in value.items():
            spelling.profile(name, sizes)
        return value

    @field_validator("models", "model_aliases", "stream_profiles", mode="before")
    @classmethod
    def _pairs(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("{"):
            return json.loads(value)
        split = spelling.sizes if info.field_name == "stream_profiles" else spelling.pair
        pairs = [split(part) for part in value.split(",")]
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"name={twice[0]} is there twice")
        return dict(pairs)

    @field_validator("models")
    @classmethod
    def _named(cls, value: dict[str, str]) -> dict[str, str]:
        for name, source in value.items():
            spelling.pair(f"{name}={source}")
        return value

    @field_validator("model_aliases")
    @classmethod
    def _of_models(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        models = info.data.get("models", {})
        for alias, name in value.items():
            if name not in models or alias in models:
                raise ValueError(
                    f"{alias}={name} is not alias=name, with the name of a model: {', '.join(models)}"
                )
        return value

    @field_validator("api_keys")
    @classmethod
    def _hashed(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        entries = keys.parse(value.get_secret_value().replace(",", "\n"))
        return SecretStr("\n".join(f"{name}:sha256${digest}" for name, digest in entries))

    @field_validator("api_keys_file")
    @classmethod
    def _has_keys(cls, value: Path | None) -> Path | None:
        if value is not None:
            keys.read(value)
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = (
                json.loads(value) if value.startswith("[") else [part.strip() for part in value.split(",")]
            )
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", str(origin)):
                raise ValueError(f"{origin!r} is no origin, such as https://example.org, nor *")
        return value

    @field_validator("spool_dir")
    @classmethod
    def _writable(cls, value: Path | None) -> Path | None:
        if value is not None and not (value.is_dir() and os.access(value, os.W_OK)):
            raise ValueError(f"{value} is not a folder that can be written to")
        return value

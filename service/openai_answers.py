"""A transcript in the shapes of OpenAI's audio API: whole, or as server-sent events while a long clip is heard."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from asr import Transcript, Word, subtitles
from asr.ctc import StreamDecoder
from service import answers
from service.engine import Answer
from service.schemas import (
    OpenAIOptions,
    OpenAISegment,
    OpenAITranscription,
    OpenAIVerbose,
    OpenAIWord,
    Usage,
)

# OpenAI takes a code and answers with a name.
LANGUAGE_NAMES = {"en": "english"}
UNKNOWN = "unknown"  # clients want a language, whether anyone knows it or not


def render(options: OpenAIOptions, answer: Answer, language: str | None) -> Response:
    """The answer's HTTP response, in `options.response_format` and `options.case`; `language` is None where unknown."""
    if options.response_format not in ("json", "verbose_json"):
        return answers.render(options, answer, language)
    transcript = answer.transcript.in_case(options.case)
    usage = Usage(seconds=round(transcript.duration_s, 4))
    if options.response_format == "json":
        return _json(OpenAITranscription(text=transcript.text, usage=usage))
    times = options.timestamp_granularities or ["segment"]
    return _json(
        OpenAIVerbose(
            language=LANGUAGE_NAMES.get(language, language) if language else UNKNOWN,
            duration=usage.seconds,
            text=transcript.text,
            words=_words(transcript.words) if "word" in times else None,
            segments=_segments(transcript) if "segment" in times else None,
            usage=usage,
        )
    )


def event(data: BaseModel) -> str:
    """One server-sent event."""
    return f"data: {data.model_dump_json()}\n\n"


class Deltas:
    """The text of a long clip, bit by bit: only words that nothing can change any more.

    All of them joined, `rest` at the end included, are the text of the transcript.
    """

    def __init__(self, decoder: StreamDecoder, case: str) -> None:
        """Take a fresh decoder for the model's scores."""
        self._decoder = decoder
        self._fold = str.lower if case == "lower" else str.upper
        self._sent = ""

    def heard(self, scores: np.ndarray) -> str:
        """What the next window adds, with its scores [frames, vocabulary]."""
        self._decoder.push(scores)
        words = [self._fold(word.word) for word in self._decoder.cut(len(self._decoder.finished))]
        delta = " ".join([""] * bool(self._sent and words) + words)
        self._sent += delta
        return delta

    def rest(self, text: str) -> str:
        """What is still missing of the whole text."""
        return text[len(self._sent) :] if text.startswith(self._sent) else ""


def _json(body: BaseModel) -> JSONResponse:
    return JSONResponse(body.model_dump(exclude_none=True))


def _words(words: Sequence[Word]) -> list[OpenAIWord]:
    return [OpenAIWord(word=word.word, start=word.start, end=word.end) for word in words]


def _segments(transcript: Transcript) -> list[OpenAISegment]:
    return [
        _segment(number, cue)
        for number, cue in enumerate(subtitles.cues(transcript.words, transcript.duration_s))
    ]


def _segment(number: int, cue: subtitles.Cue) -> OpenAISegment:
    """`compression_ratio` as Whisper has it: of the text to its deflated self, high where words repeat."""
    text = cue.text.encode()
    return OpenAISegment(
        id=number,
        start=cue.start,
        end=cue.end,
        text=cue.text,
        avg_logprob=sum(math.log(max(word.confidence, 1e-9)) for word in cue.words) / len(cue.words),
        compression_ratio=len(text) / len(zlib.compress(text)),
    )

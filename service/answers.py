"""A transcript in the format that was asked for."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from asr import Transcript, subtitles
from service.engine import Answer
from service.schemas import Segment, Timing, TranscribeOptions, Transcription, Word


def render(options: TranscribeOptions, answer: Answer, language: str | None) -> Response:
    """The answer's HTTP response, in `options.response_format` and `options.case`; `language` is None where unknown."""
    transcript = answer.transcript.in_case(options.case)
    if options.response_format == "text":
        return PlainTextResponse(transcript.text + "\n")
    if options.response_format == "srt":
        return Response(
            subtitles.srt(transcript.words, transcript.duration_s),
            media_type="application/x-subrip; charset=utf-8",
        )
    if options.response_format == "vtt":
        return Response(
            subtitles.vtt(transcript.words, transcript.duration_s), media_type="text/vtt; charset=utf-8"
        )
    return JSONResponse(_json(options, answer, transcript, language))


def _json(
    options: TranscribeOptions, answer: Answer, transcript: Transcript, language: str | None
) -> dict[str, Any]:
    verbose = options.response_format == "verbose_json"
    times = options.timestamp_granularities or (["segment"] if verbose else [])
    body = Transcription(
        task="transcribe" if verbose else None,
        text=transcript.text,
        model=options.model,
        language=language,
        duration=round(transcript.duration_s, 4),
        words=[Word(**asdict(word)) for word in transcript.words] if "word" in times else None,
        segments=_segments(transcript) if "segment" in times else None,
        timing=Timing(
            queue_s=round(answer.queue_s, 6),
            inference_s=round(answer.inference_s, 6),
            batch_size=answer.batch_size,
        ),
    )
    return body.model_dump(exclude_none=True)


def _segments(transcript: Transcript) -> list[Segment]:
    cues = subtitles.cues(transcript.words, transcript.duration_s)
    return [Segment(id=i, start=cue.start, end=cue.end, text=cue.text) for i, cue in enumerate(cues)]

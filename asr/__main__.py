"""Transcribe sound files: python -m asr talk.flac --model mha,mla --format srt"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from asr import Transcriber, Transcript, audio, load, ngram, subtitles
from asr.search import Beam
from asr.transcriber import DTYPES

FORMATS = {"text": "txt", "srt": "srt", "vtt": "vtt", "json": "json"}
EXAMPLES = """\
examples:
  python -m asr talk.flac
  python -m asr talk.flac --model mha,mla --format json
  python -m asr recordings/*.mp3 --format srt --output_dir subtitles
  python -m asr talk.flac --decoding beam --lm --hot_words "Hanna,New York"

Text and json go to standard output, one line per file and model, or to files in --output_dir. A file that cannot be
read is reported, the others are still done, and the exit status is 1.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 1 if a file failed, 2 if nothing could be started."""
    options = _options(arguments)
    decoding = _decoding(options)
    try:
        models = {name: load(name, device=options.device, dtype=options.dtype) for name in options.model}
        for model in models.values():
            model.check_decoding(decoding)
        if options.output_dir:
            options.output_dir.mkdir(parents=True, exist_ok=True)
    except (ValueError, RuntimeError, AssertionError, OSError) as error:  # torch asserts that CUDA is there
        return _complain(str(error), status=2)
    failed = 0
    for file in tqdm(options.files, unit="file", disable=len(options.files) == 1 or None):
        try:
            for name, transcript in _transcripts(file, models, decoding):
                _give(options, file, name, transcript.in_case(options.case))
        except _Unusable as error:
            failed = _complain(str(error), status=1)
    return failed


class _Unusable(Exception):
    """One file cannot be transcribed; the text names it and says why."""


def _transcripts(
    file: Path, models: dict[str, Transcriber], decoding: Beam | None
) -> Iterator[tuple[str, Transcript]]:
    try:
        wave = audio.read(file)
    except audio.AudioError as error:
        raise _Unusable(str(error)) from error
    except OSError as error:
        raise _Unusable(f"{file}: {error.strerror or error}") from error
    except MemoryError as error:
        raise _Unusable(f"{file}: too little memory for its samples") from error
    for name, model in models.items():
        try:
            (transcript,) = model.transcribe([wave], decoding=decoding)
        except (RuntimeError, ValueError, MemoryError) as error:
            # Torch's type for all that goes wrong on a device; scores that are NaN; too little memory.
            reason = str(error) or "too little memory"
            raise _Unusable(f"{file}: {name} failed: {reason.splitlines()[0]}") from error
        yield name, transcript


def _give(options: argparse.Namespace, file: Path, name: str, transcript: Transcript) -> None:
    text = _formatted(options.format, file, name, transcript).removesuffix("\n") + "\n"
    if options.output_dir:
        _write(_target(options, file, name), text)
        return
    if options.format == "text":
        label = [str(file)] * (len(options.files) > 1) + [name] * (len(options.model) > 1)
        text = "\t".join([*label, text])
    with tqdm.external_write_mode(file=sys.stdout):
        print(text, end="", flush=True)


def _write(target: Path, text: str) -> None:
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _Unusable(f"{target} cannot be written: {error.strerror or error}") from error


def _formatted(kind: str, file: Path, name: str, transcript: Transcript) -> str:
    if kind == "json":
        return json.dumps(_as_dict(file, name, transcript), ensure_ascii=False)
    if kind == "text":
        return transcript.text
    written = subtitles.srt if kind == "srt" else subtitles.vtt
    return written(transcript.words, transcript.duration_s)


def _as_dict(file: Path, name: str, transcript: Transcript) -> dict[str, object]:
    return {
        "file": str(file),
        "model": name,
        "text": transcript.text,
        "duration": transcript.duration_s,
        "words": [asdict(replace(word, confidence=round(word.confidence, 4))) for word in transcript.words],
    }


def _target(options: argparse.Namespace, file: Path, name: str) -> Path:
    model = f".{Path(name).name}" if len(options.model) > 1 else ""
    folder: Path = options.output_dir
    return folder / f"{file.stem}{model}.{FORMATS[options.format]}"


def _complain(reason: str, *, status: int) -> int:
    tqdm.write(f"error: {reason}", file=sys.stderr)
    return status


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m asr",
        description="Transcribe sound files.",
        epilog=EXAMPLES,
        formatter_class=_HelpFormatter,
    )
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="wav, flac, ogg, mp3; m4a, mp4, webm with the extra `av`",
    )
    add(
        "--model",
        type=_names,
        default="mla",
        help="comma-separated: bundled names (mha, mla), folders, or hub ids; with several, the output says which",
    )
    add("--format", choices=FORMATS, default="text", help="srt and vtt are subtitles; json has word times")
    add("--output_dir", "--output-dir", type=Path, help="write one file per input and model here")
    add("--case", choices=["lower", "upper"], default="lower", help="case of the words")
    ways = "the likeliest token of each frame, or a search for the likeliest text, which takes longer"
    add("--decoding", choices=["greedy", "beam"], default="greedy", help=ways)
    lm = "behind the files: let the search go by a word n-gram, an ARPA file, or the bundled one when none is named"
    add("--lm", nargs="?", type=Path, const=ngram.BUNDLED, metavar="ARPA", help=lm)
    add(
        "--hot_words",
        "--hot-words",
        type=_names,
        default=[],
        help="words and phrases that the search prefers: a,b",
    )
    add("--boost", type=float, default=1.0, help="what each letter of those earns, 0 to 10")
    add("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    add("--dtype", choices=DTYPES, help="(default: bfloat16 on cuda, float32 on cpu)")
    options = parser.parse_args(arguments)
    if options.decoding == "greedy" and (options.lm or options.hot_words):
        parser.error("--lm and --hot_words need --decoding beam")
    _check_outputs(parser, options)
    return options


def _decoding(options: argparse.Namespace) -> Beam | None:
    if options.decoding == "greedy":
        return None
    return Beam(hot_words=tuple(options.hot_words), boost=options.boost, lm=options.lm)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default is not None else action.help


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: one or more, all different, separated by commas")
    return names


def _check_outputs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.output_dir:
        targets = Counter(_target(options, file, name) for file in options.files for name in options.model)
        twice = [str(target) for target, count in targets.items() if count > 1]
        if twice:
            parser.error(
                f"several results would be written to {', '.join(twice)}: give files of different names"
            )
    elif options.format in ("srt", "vtt") and len(options.files) * len(options.model) > 1:
        parser.error(f"--format {options.format} with several files or models needs --output_dir")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `python -m asr ... | head`; closing stdout once more must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)

"""Copies a small, even choice of recordings into a folder of its own, with a manifest: what the tests listen to."""

import json
import re
import shutil
import sys
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

from offline import cli
from offline.data import Utterance, labels_of, read_manifest

# The open texts are jokes and quotations; a public sample leaves some of their words out.
UNSUITABLE = re.compile(
    r"\b(SEX|ORGASM|CRAP|DAMN|HELL|DRUG|DRUNK|KILL|MURDER|SUICIDE|NAKED|NIPPLE|BASTARD)(S|ED|ER|ERS|ING|Y|UAL)?\b"
)
EXAMPLE = """python -m offline.samples --output_dir tests/speech --clips 30 \\
    --manifest data/speech/test-seen-voices.jsonl,data/speech/test-unseen-voice.jsonl"""


def choose(utterances: list[Utterance], clips: int) -> list[Utterance]:
    """The first recordings of each domain and engine in turn, until there are `clips`; in their own order."""
    groups: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if UNSUITABLE.search(utterance.text):
            continue
        groups[utterance.domain, utterance.engine].append(utterance)
    chosen: list[Utterance] = []
    for row in range(max(map(len, groups.values()), default=0)):
        chosen += [group[row] for group in groups.values() if row < len(group)]
    kept = {(utterance.audio, utterance.start_s) for utterance in chosen[:clips]}
    return [utterance for utterance in utterances if (utterance.audio, utterance.start_s) in kept]


def copy(utterances: list[Utterance], folder: Path, name: str) -> None:
    """Write `folder/name.jsonl` and the recordings that it lists, in `folder/name/`."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    files: dict[Path, str] = {}
    for number, utterance in enumerate(utterances):
        if (audio := utterance.audio) not in files:  # of another folder it may have the same name
            taken = audio.name in files.values()
            files[audio] = f"{number:06d}-{audio.name}" if taken else audio.name
            shutil.copy(audio, folder / name / files[audio])
        row = {"audio_filepath": f"{name}/{files[audio]}", "duration": utterance.duration_s}
        row |= {"text": utterance.text}
        row |= {"offset": utterance.start_s} if utterance.end_s is not None else {}
        lines.append(json.dumps(row | labels_of(utterance)) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("--manifest", type=cli.paths, required=True, help="manifests to choose from, a.jsonl,b.jsonl")
    add("--output_dir", type=Path, required=True, help="folder to copy to")
    add("--clips", type=cli.count, default=30, help="recordings of each manifest")
    return options


def run(args: Namespace) -> None:
    """Copies as args say. Raises ManifestError for a manifest that cannot be read."""
    for manifest in args.manifest:
        chosen = choose(read_manifest(manifest), args.clips)
        copy(chosen, args.output_dir, manifest.stem)
        print(f"{args.output_dir / manifest.stem}.jsonl: {len(chosen)} recordings")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when copied, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.samples", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())

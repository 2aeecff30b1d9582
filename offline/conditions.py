"""Makes worse copies of test recordings: by telephone, in noise, in a room; to see what each costs a model.

Every recording is written once as it is and once under each condition, all of them in one manifest, test.jsonl, whose
`domain` is the condition and the set that it came from: `offline.evaluate` lists error rates by it.

- telephone: 300 to 3400 Hz, mu-law
- noise: coloured, 10 dB below the speech
- room: reverberant, 60 dB in 0.1 to 0.6 s

The copies depend on --seed and on the recordings' names, not on their order. Training augments in such ways, too.
"""

import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from asr.audio import SAMPLE_RATE
from offline import augment, cli, provenance
from offline.augment import Wave
from offline.corpora import evenly
from offline.data import Utterance, labels_of, read_manifest
from offline.synthesize import Row, write_flac, write_manifest

EXAMPLE = """python -m offline.conditions --output_dir data/conditions --max_samples 200 \\
      --manifest data/speech/test-seen-voices.jsonl,data/speech/test-unseen-voice.jsonl
  python -m offline.evaluate --model mha,mla --dataset data/conditions/test.jsonl \\
      --output_file results/conditions.json"""
NOISE_DB = 10.0
CONDITIONS: dict[str, Callable[[Wave, np.random.Generator], Wave]] = {
    "as it is": lambda wave, rng: wave,
    "telephone": lambda wave, rng: augment.telephone(wave),
    "noise": lambda wave, rng: augment.add_noise(wave, rng, NOISE_DB),
    "room": lambda wave, rng: augment.reverberate(wave, rng),
}


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("--manifest", type=cli.paths, required=True, help="a.jsonl,b.jsonl: the sets to make copies of")
    add("--output_dir", type=Path, required=True, help="folder for test.jsonl and audio/")
    add("--max_samples", type=cli.count, help="at most so many recordings of each set, evenly spaced")
    add("--seed", type=cli.natural, default=1, help="of noises and rooms")
    return options


def under(condition: str, wave: Wave, name: str, seed: int) -> Wave:
    """Returns wave float32 [samples] under one of CONDITIONS, as long as it was, its peak at most 0.95."""
    key = hashlib.sha256(f"{seed} {condition} {name}".encode()).digest()
    heard = CONDITIONS[condition](wave, np.random.default_rng(list(key)))
    return heard * np.float32(min(1.0, 0.95 / max(float(np.abs(heard).max(initial=0)), 1e-6)))


def _set(manifest: Path) -> str:
    return f"{manifest.resolve().parent.name}-{manifest.stem}"


def _rows(folder: Path, source: Path, index: int, utterance: Utterance, seed: int) -> list[Row]:
    wave, rows = utterance.wave(), []
    name = utterance.audio.stem  # may repeat in another folder: the number tells files apart
    if utterance.start_s or utterance.end_s:
        name += f"-{utterance.start_s:.3f}"
    for condition in CONDITIONS:
        heard = under(condition, wave, name, seed)
        file = Path("audio") / condition.replace(" ", "-") / _set(source) / f"{index:06d}-{name}.flac"
        write_flac(folder / file, heard)
        row: Row = {"audio_filepath": str(file), "duration": round(len(heard) / SAMPLE_RATE, 4)}
        rows.append(
            row | {"text": utterance.text} | labels_of(utterance) | {"domain": f"{_set(source)}, {condition}"}
        )
    return rows


def work(args: Namespace) -> None:
    """What the command line asks for. Raises ValueError for manifests that cannot be read, or of one name."""
    if len({_set(path) for path in args.manifest}) < len(args.manifest):
        raise ValueError("--manifest: two of them have the same name, by which the table tells them apart")
    chosen = [
        (path, utterance)
        for path in args.manifest
        for utterance in evenly(read_manifest(path), args.max_samples)
    ]
    rows = [
        row
        for index, (path, utterance) in enumerate(tqdm(chosen, "recordings", disable=None))
        for row in _rows(args.output_dir, path, index, utterance, args.seed)
    ]
    write_manifest(args.output_dir / "test.jsonl", rows)
    report = provenance.of_run("offline.conditions", args, args.manifest, None)
    (args.output_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{len(chosen)} recordings, {len(CONDITIONS)} times each: {args.output_dir / 'test.jsonl'}")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when written, 2 when a manifest cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.conditions", lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())

"""Makes manifests of people's speech, to test on: recordings that Debian packages carry, fetched with apt-get.

- prompts-dev.jsonl, prompts-test.jsonl: what a telephone exchange says, clearly, by one woman in a studio, 16 kHz
  (asterisk-core-sounds-en-g722; Allison Smith, CC-BY-SA-3.0). A text is always on the same side.
- readers.jsonl: a few sentences of a novel and some commands, by other people (pocketsphinx-testdata; BSD-2).

Left out: what is not said as it is spelled (abbreviations, numbers over 20, signs), single letters, tones. Nothing of
it is for training: it tells how a model that has heard no person hears people.
"""

import gzip
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asr.audio import SAMPLE_RATE, read
from offline import cli, provenance
from offline.sentences import normalise, spell_number
from offline.synthesize import Row, write_flac, write_manifest

EXAMPLE = """python -m offline.people --output_dir data/people
  python -m offline.evaluate --model mha,mla --dataset data/people/prompts-test.jsonl --decoding greedy,beam+lm \\
      --output_file results/people.json"""
PACKAGES = ("asterisk-core-sounds-en", "asterisk-core-sounds-en-g722", "pocketsphinx-testdata")
PROMPTS = Path("usr/share/asterisk/sounds/en_US_f_Allison")
PROMPT_TEXTS = Path("usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
READERS = Path("usr/share/pocketsphinx/test/data")
COMMAND = ("goforward.raw", "go forward ten meters")
UNSPELLED = re.compile(r"[^A-Za-z0-9 .,!?;:'-]|\w\.\w|\b[A-Z]{2,}\b|\d\w*[A-Za-z]|[A-Za-z]\w*\d")
MOST = 20  # larger numbers may be read out in more than one way

Spoken = tuple[str, str, np.ndarray]  # name, text, float32 [samples] at 16 kHz


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    options.add_argument("--output_dir", type=Path, required=True, help="folder for manifests and audio/")
    return options


def plain(text: str) -> str | None:
    """The words of a prompt as a recogniser must find them; None where they are not all said as they are spelled."""
    if UNSPELLED.search(text) or any(int(number) > MOST for number in re.findall(r"\d+", text)):
        return None
    try:
        words = normalise(re.sub(r"\d+", lambda number: spell_number(int(number[0])), text))
    except ValueError:
        return None
    return words if len(words) > 1 else None


def fetch(folder: Path) -> list[str]:
    """Download the packages and unpack them into folder; their file names, with versions. Raises ValueError."""
    try:
        subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, check=True, capture_output=True)
        files = sorted(folder.glob("*.deb"))
        for file in files:
            subprocess.run(["dpkg", "-x", file.name, "."], cwd=folder, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is missing: this needs Debian, or a system made of it") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise ValueError(f"{' '.join(error.cmd)}: {said} (apt-get update may help)") from None
    return [file.name for file in files]


def prompts(root: Path) -> Iterator[Spoken]:
    """The exchange's prompts that are plain words."""
    for line in _lines(root / PROMPT_TEXTS):
        name, colon, said = line.partition(":")
        file = root / PROMPTS / f"{name.strip()}.g722"
        text = plain(said)
        if colon and text and file.is_file():
            yield name.strip().replace("/", "-"), text, _g722(file)


def readers(root: Path) -> Iterator[Spoken]:
    """Sentences and commands of several people."""
    for transcripts in (READERS / "librivox" / "transcription", READERS / "cards" / "cards.transcription"):
        for line in _lines(root / transcripts):
            if found := re.fullmatch(r"<s> (.*?) *</s> \((.*)\)", line.strip()):
                yield found[2], normalise(found[1]), read(root / transcripts.parent / f"{found[2]}.wav")
    name, text = COMMAND
    raw = np.fromfile(root / READERS / name, "<i2")
    yield Path(name).stem, normalise(text), raw.astype(np.float32) / 32768


def side(text: str) -> str:
    """dev or test: half of the texts each."""
    return "dev" if hashlib.sha256(text.encode()).digest()[0] % 2 else "test"


def work(args: Namespace) -> None:
    """What the command line asks for."""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as unpacked:
        packages = fetch(Path(unpacked))
        rows: dict[str, list[Row]] = {"prompts-dev": [], "prompts-test": [], "readers": []}
        for kind, speech in (("prompts", prompts(Path(unpacked))), ("readers", readers(Path(unpacked)))):
            for name, text, wave in speech:
                split = f"prompts-{side(text)}" if kind == "prompts" else kind
                rows[split].append(_keep(args.output_dir, Path("audio") / kind / f"{name}.flac", text, wave))
    for split, kept in rows.items():
        write_manifest(args.output_dir / f"{split}.jsonl", kept)
        words = sum(len(str(row["text"]).split()) for row in kept)
        print(f"{split}: {len(kept)} recordings, {words} words")
    report = {"command": provenance.command("offline.people"), "packages": packages, "about": __doc__}
    (args.output_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _keep(folder: Path, file: Path, text: str, wave: np.ndarray) -> Row:
    write_flac(folder / file, wave)
    row: Row = {
        "audio_filepath": str(file),
        "duration": round(len(wave) / SAMPLE_RATE, 4),
        "text": text,
        "domain": "people",
        "engine": "person",
        "voice": file.parent.name,
    }
    return row


def _lines(path: Path) -> list[str]:
    """Of a text that may be gzip-compressed."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()


def _g722(path: Path) -> np.ndarray:
    try:
        import av
    except ImportError:
        raise ValueError("PyAV is missing, which decodes G.722: pip install 'mla-asr[av]'") from None
    with av.open(str(path), format="g722") as container:
        samples = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    return np.concatenate(samples).astype(np.float32) / 32768


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when written, 2 when packages cannot be had."""
    args = parser().parse_args(argv)
    return cli.run("offline.people", lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())

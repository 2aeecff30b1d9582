"""Result files in the formats of offline.evaluate and offline.benchmark, with errors and figures that are known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from offline.compare import compare, parser

MHA, JOINT = (
    {"kind": "mha"},
    {"kind": "mla", "latent": "joint", "rank": [8], "method": "attention", "source": "mha"},
)
WORD_LIST = [f"{first}{last}" for first in "BCDFGHKLMN" for last in ("AT", "EN", "IP", "OT", "UG")]


def said(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Lines of a .jsonl without models: every sentence is read twice, by two of forty voices."""
    rng = np.random.default_rng(seed)
    sentences = [" ".join(rng.choice(WORD_LIST, 10)) for _ in range(count // 2)]
    voices = rng.integers(40, size=count)
    return [
        {"id": f"u{n:05}", "audio": f"{n}.flac", "duration_s": 3.0, "manifest": "dev", "speaker": "",
         "domain": "open" if n % 3 else "everyday", "engine": "espeak" if n % 4 else "flite",
         "voice": f"v{voices[n]:02}", "words": 10, "reference": sentences[n % (count // 2)]}
        for n in range(count)
    ]  # fmt: skip


def hurt(lines: Sequence[dict[str, Any]], share: float, seed: int) -> list[str]:
    """Texts with this share of the words heard as XX."""
    rng = np.random.default_rng(seed)
    return [
        " ".join("XX" if rng.random() < share else word for word in line["reference"].split())
        for line in lines
    ]


def counts(reference: str, text: str) -> dict[str, Any]:
    measured = jiwer.process_words(reference.upper(), text.upper())
    found = {name: getattr(measured, name) for name in ("substitutions", "deletions", "insertions")}
    return {**found, "total": sum(found.values())}


def write(path: Path, lines: Sequence[dict[str, Any]], texts: dict[str, list[str]], facts: dict[str, dict[str, Any]],
          how: dict[str, Any] | None = None, **results: dict[str, Any]) -> Path:  # fmt: skip
    """Writes X.json and X.jsonl as offline.evaluate does; facts and results by model."""
    rows = []
    for number, line in enumerate(lines):
        models = {}
        for name, heard in texts.items():
            errors = counts(line["reference"], heard[number])
            models[name] = {"text": heard[number], **errors, "normalised": {"words": line["words"], **errors}}
        rows.append({**line, "models": models})
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = sum(line["words"] for line in lines)
    found = {}
    for name in texts:
        errors = sum(
            sum(row["models"][name][kind] for kind in ("substitutions", "deletions", "insertions"))
            for row in rows
        )
        total = {
            "wer": round(100 * errors / words, 3),
            "wer_normalised": round(100 * errors / words, 3),
            "cer": 1.0,
        }
        speed = {"rtfx": 100.0, "rtfx_model": 120.0, "latency_ms": {"p50": 20.0, "p95": 30.0}}
        memory = {"peak_process_bytes": 4_000_000}
        found[name] = {"total": total, "speed": speed, "memory": memory} | results.get(name, {})
    what = {"git_commit": "abc", "device": "cpu", "machine": {"cpu": "one"}, "threads": 1, "models": {}}
    for name in texts:
        what["models"][name] = {"folder": f"runs/{name}", "folder_hash": f"hash of {name}", "parameters": 5_000_000,
                                "weight_bytes": 20_000_000, "cache_bytes_per_second": 512_000.0,
                                "cached_values_per_frame": 2560, "method": facts[name].get("method"),
                                "attention": facts[name]}  # fmt: skip
    usual = {"command": "evaluate", "dtype": "float32", "batch_size": 8, "batch_seconds": 60.0, "chunk_frames": None,
             "left_context_frames": None, "engine": "ours"}  # fmt: skip
    content = {
        "what": what,
        "how": usual | (how or {}),
        "results": found,
        "utterances_file": f"{path.stem}.jsonl",
    }
    path.write_text(json.dumps(content))
    return path


def change(path: Path, *keys: str, **values: Any) -> None:
    """Changes values somewhere in a JSON file."""
    content = json.loads(path.read_text())
    at = content
    for key in keys:
        at = at[key]
    at.update(values)
    path.write_text(json.dumps(content))


def cut_cache(path: Path, model: str, cut: float) -> None:
    change(path, "what", "models", model, cached_values_per_frame=round(2560 * (1 - cut)),
           cache_bytes_per_second=512_000.0 * (1 - cut))  # fmt: skip


def figures(*words: object, resamples: int = 400) -> dict[str, Any]:
    """Returns what report.json would hold, but the names of the plots."""
    options = [*map(str, words), "--output_dir", "unused", "--resamples", str(resamples)]
    return json.loads(json.dumps(compare(parser().parse_args(options))))


def bench(path: Path, ratio: float, saved: float, parameters: int = 5_000_000) -> Path:
    """A benchmark of mha, stock code and mla, of which mla has this share of mha's speed."""
    rows = [
        {"model": "m", "arm": arm, "path": way, "batch_size": size, "clip_s": [10.0], "rtfx": rtfx,
         "rtfx_quartiles": [rtfx * 0.99, rtfx * 1.01], "rtfx_model": rtfx, "peak_resident_bytes": peak,
         "latency_s": {"p50": 0.1, "p95": 0.2} if size == 1 else None}
        for size in (1, 8)
        for arm, way, rtfx, peak in (("mha", None, 50.0, 1000), ("stock-sdpa", None, 30.0, 900),
                                     ("mla-75", "auto", 50.0 * ratio, round(1000 * (1 - saved))))
    ]  # fmt: skip
    what = {"device": "cpu", "threads": 1, "models": {"m: mha": {"parameters": parameters, "attention": MHA}}}
    path.write_text(json.dumps({"what": what, "how": {"dtype": "float32"}, "checks": [], "results": rows}))
    return path


def pair_of_arms(tmp_path: Path) -> Path:
    """An mha and an mla of 75 % less cache, with 5 % and 6 % errors in 3,000 words, of which most are shared."""
    lines = said(300)
    first = hurt(lines, 0.05, 1)
    more = hurt(lines, 0.01, 2)
    second = [" ".join("XX" if "XX" in pair else pair[0] for pair in zip(a.split(), b.split(), strict=True))
              for a, b in zip(first, more, strict=True)]  # fmt: skip
    path = write(tmp_path / "dev.json", lines, {"mha": first, "mla": second}, {"mha": MHA, "mla": JOINT},
                 mla={"speed": {"rtfx": 102.0, "rtfx_model": 121.0, "latency_ms": None}})  # fmt: skip
    cut_cache(path, "mla", 0.75)
    return path

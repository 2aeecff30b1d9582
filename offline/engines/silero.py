"""Silero's English voices, each learnt from one person's recordings, and mixtures of two of them."""

import io
import re
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from offline.engines.voice import Speech, Voice

_FILE = Path("data/silero/v3_en.pt")  # where `make silero` puts it
_PEOPLE = 118
_SPEAKERS = 400
_SEED = 85
_RATE = 24_000


def problem() -> str | None:
    return None if _FILE.is_file() else f"{_FILE} is missing: make silero"


def voices() -> list[Voice]:
    """The people, then mixtures of two: who, and the share of the first."""
    voices = []
    for index in range(_SPEAKERS):
        rng = np.random.default_rng([_SEED, index])
        held_out = index % 10 == 7
        if index < _PEOPLE:
            people, share = (index, index), 1.0
        else:  # of people who are held out as it is
            choices = [person for person in range(_PEOPLE) if (person % 10 == 7) == held_out]
            first, second = rng.choice(choices, size=2, replace=False).tolist()
            people, share = (first, second), float(rng.uniform(0.25, 0.75))
        settings = (people, share, float(rng.uniform(0.92, 1.08)))
        voices.append(Voice("silero", f"silero-{index:03d}", settings, held_out))
    return voices


@lru_cache(maxsize=1)
def _model() -> tuple[Any, list[Any]]:
    """The network, a TorchScript module, and its three tables of speakers, whose last rows are for anybody.

    The file is of torch.package, whose reader runs pickles. The script in it needs none: here are its parts under the
    names that `torch.jit.load` knows.
    """
    import torch

    torch.set_num_threads(1)
    script = io.BytesIO()
    with zipfile.ZipFile(_FILE) as package, zipfile.ZipFile(script, "w") as archive:
        for name in package.namelist():
            part = name.split("/", 1)[1]
            if part.endswith(".storage"):
                archive.writestr(f"archive/data/{part.removeprefix('.data/')}", package.read(name))
            elif part.startswith((".data/ts_code/", ".data/version")):
                inside = re.sub(r"^\.data/(ts_code/(0/)?)?", "", part)
                archive.writestr(f"archive/{inside}", package.read(name))
    script.seek(0)
    model = torch.jit.load(script, map_location="cpu").eval()
    speaker = model.tts_model
    tables = [speaker.tacotron, speaker.dur_predictor.dur_pred, speaker.pitch_predictor.pitch_pred]
    return model, [table.speaker_embedding.weight for table in tables]


def speak(sentence: str, voice: Voice, rng: np.random.Generator) -> Speech:
    import torch

    (first, second), share, tract = voice.settings
    model, tables = _model()
    pace, pitch = float(rng.uniform(0.8, 1.2) / tract), float(rng.uniform(0.9, 1.1) / tract)
    text = "".join(letter for letter in sentence.lower() if letter in model.symbol_to_id)
    speaker = torch.tensor([_PEOPLE])
    with torch.no_grad():
        for table in tables:
            table[speaker] = share * table[first] + (1 - share) * table[second]
        samples, _ = model([text], [text], [None], [pace], [pitch], speaker, _RATE, "cpu")
    return samples[0].numpy(), round(_RATE * tract)

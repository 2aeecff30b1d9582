"""Speech for tests: recordings in which every letter is a tone of its own, and a tiny model to hear them."""

import json
from pathlib import Path

import numpy as np
import soundfile

TINY = {
    "model_type": "wav2vec2-conformer",
    "vocab_size": 32,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_depthwise_kernel_size": 7,
    "conv_dim": [8, 8, 12, 12, 16, 16, 24],
    "hidden_dropout": 0.1,
    "num_conv_pos_embeddings": 2,
    "num_conv_pos_embedding_groups": 1,
}
LETTER_S = 0.12


def tone(text: str) -> np.ndarray:
    """float32 [samples]: a tone for each letter, a silence for each space."""
    time_s = np.arange(int(LETTER_S * 16_000)) / 16_000
    hz = [0 if letter == " " else 400 + 500 * (ord(letter) - ord("A")) for letter in text]
    return np.concatenate([0.2 * np.sin(2 * np.pi * f * time_s) for f in hz]).astype(np.float32)


def write_tones(folder: Path) -> Path:
    """Writes four recordings with their manifest tones.jsonl, and tiny.json; returns the folder."""
    lines = []
    for number, text in enumerate(["AB", "BA", "CAB", "A CAB"]):
        soundfile.write(folder / f"{number}.flac", tone(text), 16_000)
        duration_s = len(text) * LETTER_S
        lines.append(json.dumps({"audio_filepath": f"{number}.flac", "duration": duration_s, "text": text}))
    (folder / "tones.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    return folder

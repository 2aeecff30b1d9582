"""The implementation of `transformers` behind our door: the outside check on the same recordings.

Everything is stock: feature extractor, model, argmax, `batch_decode`. Only tokens that are no text (`<s>`), which stock
code spells out, are dropped from its texts. Clips of one batch disturb each other there (the convolutions read the
padding), so batches of one are the fair comparison. It knows mha folders alone.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import asr
from asr import checkpoint
from asr.audio import SAMPLE_RATE
from asr.transcriber import DTYPES, Transcript, device_of

IMPLEMENTATIONS = ("eager", "sdpa")


class Stock(asr.Transcriber):
    """`Wav2Vec2ConformerForCTC` and the folder's own processor; `transcribe` and `log_probs` as asr's."""

    def __init__(self, name: str, folder: Path, network: Any, processor: Any) -> None:
        self.name, self.model, self.folder = name, network, folder  # not by super: its network has our config
        self.config, self.vocabulary = checkpoint.read_config(folder), checkpoint.read_vocabulary(folder)
        self.seconds_per_frame = self.config.hop_samples / SAMPLE_RATE
        self.processor = processor
        self._no_text = [
            t for t in processor.tokenizer.all_special_tokens if t != processor.tokenizer.pad_token
        ]

    def transcribe(
        self, waves: list[np.ndarray], *, chunk_frames: int | None = None, **_: Any
    ) -> list[Transcript]:
        """Texts by stock decoding, without words; a clip that is too short for one frame says nothing.

        Raises:
            ValueError: chunk_frames is set; stock code has no chunks.
        """
        if chunk_frames is not None:
            raise ValueError("stock transformers has no chunks: it hears whole recordings only")
        heard = [index for index, wave in enumerate(waves) if self.config.frames(len(wave)) > 0]
        best = self._logits([waves[index] for index in heard]).argmax(-1).cpu() if heard else ()
        texts = dict(zip(heard, self.processor.batch_decode(best), strict=True)) if heard else {}
        return [
            Transcript(self._plain(texts.get(index, "")), [], len(wave) / SAMPLE_RATE)
            for index, wave in enumerate(waves)
        ]

    @torch.inference_mode()
    def _logits(self, waves: list[np.ndarray]) -> Tensor:
        """[B, T, vocabulary], on the device."""
        inputs = self.processor(
            waves,
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            padding="longest",
            return_attention_mask=True,
        )
        samples = inputs.input_values.to(self.device, self.dtype)
        return cast(Tensor, self.model(samples, attention_mask=inputs.attention_mask.to(self.device)).logits)

    def is_long(self, samples: int) -> bool:
        """Never: stock code hears whole recordings."""
        return False

    def _forward(self, waves: list[np.ndarray], **_: Any) -> list[np.ndarray]:
        if not waves:
            return []
        scores = self._logits(waves).float().log_softmax(-1).cpu().numpy()
        return [clip[: self.config.frames(len(wave))] for clip, wave in zip(scores, waves, strict=True)]

    def _plain(self, text: str) -> str:
        for token in self._no_text:
            text = text.replace(token, "")
        return " ".join(text.split())


def load(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    attn_implementation: str = "eager",
) -> Stock:
    """Loads an mha folder, bundled name or hub id into stock code; device and dtype default as in asr.load.

    Raises:
        CheckpointError: it cannot be found or read, or is an mla model.
        ValueError: an unknown dtype, or a device that is not here.
    """
    folder = checkpoint.resolve(name)
    if checkpoint.read_config(folder).attention.kind != "mha":
        raise checkpoint.CheckpointError(
            f"{name}: stock transformers has no latent attention; write its folded twin with "
            "`python -m offline.convert --export_hf` and measure that"
        )
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choices: {', '.join(DTYPES)}")
    place = device_of(device)
    wanted = DTYPES[dtype or ("bfloat16" if place.type == "cuda" else "float32")]
    network, processor = _from_folder(folder, wanted, attn_implementation)
    return Stock(str(name), folder, network.to(place).eval(), processor)


def _from_folder(folder: Path, dtype: torch.dtype, attn_implementation: str) -> tuple[Any, Any]:
    from transformers import Wav2Vec2ConformerForCTC, Wav2Vec2Processor

    try:
        network = Wav2Vec2ConformerForCTC.from_pretrained(
            folder, dtype=dtype, attn_implementation=attn_implementation, local_files_only=True
        )
        processor = Wav2Vec2Processor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise checkpoint.CheckpointError(f"{folder}: transformers cannot load it: {error}") from error
    return network, processor

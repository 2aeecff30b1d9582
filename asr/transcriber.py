"""The door: load a model, hand it waveforms, get words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from asr import checkpoint, stream
from asr.audio import SAMPLE_RATE
from asr.beam import BeamDecoder
from asr.cache import StreamCache
from asr.ctc import Vocabulary, Word, greedy
from asr.encoder import ConformerCTC
from asr.precision import cuda_dtype
from asr.search import Beam, BeamSearch, search_of
from asr.windows import Window, is_long, windows_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Transcript:
    """What was said: text in the vocabulary's case, its words with times, and the clip's length in seconds."""

    text: str
    words: list[Word]
    duration_s: float

    def in_case(self, case: Literal["lower", "upper"]) -> "Transcript":
        """The same in lower or upper case."""
        fold = str.lower if case == "lower" else str.upper
        return replace(
            self, text=fold(self.text), words=[replace(word, word=fold(word.word)) for word in self.words]
        )


class Transcriber:
    """A loaded model with its vocabulary. Not thread-safe on CUDA: one thread owns a device."""

    def __init__(
        self, name: str, model: ConformerCTC, vocabulary: Vocabulary, folder: Path | None = None
    ) -> None:
        self.name = name
        self.model = model
        self.config = model.config
        self.vocabulary = vocabulary
        self.folder = folder
        self.seconds_per_frame = self.config.hop_samples / SAMPLE_RATE

    @property
    def device(self) -> torch.device:
        return self.model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.lm_head.weight.dtype

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def weight_bytes(self) -> int:
        return sum(t.nbytes for t in self.model.state_dict().values())

    @property
    def cache_bytes_per_second(self) -> float:
        """What one second of a live stream's left context occupies in the attention caches, in the model's dtype."""
        return self.config.cached_values_per_frame() * self.dtype.itemsize / self.seconds_per_frame

    @cached_property
    def folder_hash(self) -> str | None:
        """SHA-256 over the folder's weight files: which model a measurement was made with. None without a folder."""
        return None if self.folder is None else checkpoint.folder_hash(self.folder)

    def log_probs(
        self,
        waves: list[np.ndarray],
        *,
        chunk_frames: int | None = None,
        left_context_frames: int = 0,
        lookahead_frames: int = 0,
        normalised: bool = False,
    ) -> list[np.ndarray]:
        """Log-probabilities of each clip, as if it were alone.

        Args:
            waves: float32 [samples] each, mono at 16 kHz; they run as one padded batch. Without `chunk_frames` a clip
                of over a minute runs by itself in overlapping windows, so that memory stays bounded.
            chunk_frames: None, or C for what a stream with chunks of C frames gives, computed as a whole.
            left_context_frames: F, the frames before a chunk that it sees.
            lookahead_frames: R, the frames after a chunk that are heard before it is said what is in it.
            normalised: the waves are samples of `windows`.

        Returns:
            float32 [frames, vocabulary] each; [0, vocabulary] for a clip under 400 samples.

        Raises:
            ValueError: a wave is not one-dimensional, holds NaN or infinity, or C, F or R is out of range.
        """
        _check(waves, chunk_frames, left_context_frames, lookahead_frames)
        if normalised:
            return self._forward(waves, normalised=True)
        if chunk_frames is not None:
            sight = {"left_context_frames": left_context_frames, "lookahead_frames": lookahead_frames}
            return self._forward(waves, chunk_frames=chunk_frames, **sight)
        long = [index for index, wave in enumerate(waves) if self.is_long(len(wave))]
        found = {index: self._in_windows(waves[index]) for index in long}
        rest = [index for index in range(len(waves)) if index not in found]
        found |= zip(rest, self._forward([waves[index] for index in rest]), strict=True)
        return [found[index] for index in range(len(waves))]

    def is_long(self, samples: int) -> bool:
        """Whether a clip of so many samples is heard in windows."""
        return is_long(self.config, samples)

    def windows(self, wave: np.ndarray) -> Iterator[Window]:
        """The windows of one clip, in order: what `log_probs` hears of it. Raises ValueError as that does."""
        _check([wave], None)
        return windows_of(self.config, wave)

    def _in_windows(self, wave: np.ndarray) -> np.ndarray:
        """Log-probabilities [frames, vocabulary] of one long clip."""
        heard = (
            self._forward([window.samples], normalised=True)[0][window.kept] for window in self.windows(wave)
        )
        return np.concatenate(list(heard))

    def _forward(self, waves: list[np.ndarray], **how: Any) -> list[np.ndarray]:
        """Log-probabilities of one padded batch."""
        if not waves:
            return []
        batch, lengths = _pad(waves, self.device)
        with torch.inference_mode():
            logits, frames = self.model(batch, lengths, **how)
            log_probs = logits.float().log_softmax(-1).cpu().numpy()
        return [clip[:length] for clip, length in zip(log_probs, frames.tolist(), strict=True)]

    def transcribe(
        self,
        waves: list[np.ndarray],
        *,
        chunk_frames: int | None = None,
        left_context_frames: int = 0,
        lookahead_frames: int = 0,
        decoding: Beam | None = None,
    ) -> list[Transcript]:
        """Transcripts of waves as `log_probs` takes them, in the same order.

        Args:
            waves: as for `log_probs`, as are all others but `decoding`.
            chunk_frames: see there.
            left_context_frames: see there.
            lookahead_frames: see there.
            decoding: None for greedy, or how to search with a beam.

        Raises:
            ValueError: as `log_probs`, or `decoding` cannot be used.
            OSError: the file of its n-gram cannot be read.
        """
        scores = self.log_probs(
            waves,
            chunk_frames=chunk_frames,
            left_context_frames=left_context_frames,
            lookahead_frames=lookahead_frames,
        )
        return [
            self.transcript(clip, len(wave) / SAMPLE_RATE, decoding)
            for wave, clip in zip(waves, scores, strict=True)
        ]

    def transcript(
        self, log_probs: np.ndarray, duration_s: float, decoding: Beam | None = None
    ) -> Transcript:
        """What the scores [frames, vocabulary] of a clip of `duration_s` say. Raises as `transcribe` does."""
        if decoding is None:
            text, words = greedy(log_probs, self.vocabulary, self.seconds_per_frame)
            return Transcript(text, words, duration_s)
        decoder = BeamDecoder(self._search(decoding), self.seconds_per_frame)
        decoder.push(log_probs)
        return Transcript(decoder.text, decoder.words, duration_s)

    def check_decoding(self, decoding: Beam | None) -> None:
        """Raise what `transcribe` would for `decoding`, whatever it is to hear."""
        if decoding:
            _ = self._search(decoding).lm

    def _search(self, decoding: Beam) -> BeamSearch:
        return search_of(decoding, tuple(self.vocabulary.tokens))

    def new_cache(
        self,
        slots: int,
        *,
        chunk_frames: int,
        left_context_frames: int,
        lookahead_frames: int = 0,
        dtype: str | None = None,
    ) -> StreamCache:
        """State for that many live streams, allocated once.

        Args:
            slots: how many streams there may be at a time.
            chunk_frames: C, the frames of 20 ms that a step takes of each stream.
            left_context_frames: F, the frames before a chunk that it sees.
            lookahead_frames: R, the frames after a chunk that are heard before it is said what is in it. Each step then
                computes R + C frames instead of C.
            dtype: None for the model's own, or "int8": half of bfloat16's bytes, with a scale for each frame.

        Raises:
            ValueError: a number out of range, or another dtype.
        """
        if dtype not in (None, "int8"):
            raise ValueError(f"cache dtype is {dtype!r}; choices: None (the model's own), 'int8'")
        sizes = chunk_frames, left_context_frames, lookahead_frames
        return stream.new_cache(self.model, slots, *sizes, int8=dtype == "int8")

    def chunks(self, wave: np.ndarray, *, chunk_frames: int) -> list[np.ndarray]:
        """Cuts a clip, float32 [samples], into what `step` takes; the last piece, short or empty, ends the stream.

        Raises ValueError for what `log_probs` would.
        """
        _check([wave], chunk_frames)
        size = chunk_frames * self.config.hop_samples
        first = size + self.config.tail_samples
        return [wave[:first], *(wave[at : at + size] for at in range(first, len(wave) + 1, size))]

    def step(
        self, cache: StreamCache, slots: Sequence[int], chunks: Sequence[np.ndarray], *, keep: bool = True
    ) -> list[np.ndarray]:
        """The next chunk of each of these streams, as one batch.

        Args:
            cache: from this model's `new_cache`.
            slots: the streams' slots, each once, in any order.
            chunks: float32 [samples] of each at 16 kHz: 320 C + 80 samples for a stream's first chunk, 320 C for each
                later one. A shorter one, or an empty one, ends the stream, until `cache.reset`.
            keep: False leaves the cache as it is: what the streams would say if they ended now.

        Returns:
            Log-probabilities of each, float32 [frames, vocabulary]: those of `log_probs` with the cache's chunks,
            context and look-ahead, whatever else is in the batch. They lag behind the chunk by the look-ahead, and come
            up to its end when the stream ends.

        Raises:
            ValueError: a slot that is not there, named twice or ended; a chunk too long, or with NaN or infinity; a
                full one to try where the cache looks ahead.
        """
        _check(chunks, None)
        if len(slots) != len(chunks):
            raise ValueError(f"{len(slots)} slots, but {len(chunks)} chunks")
        if not slots:
            return []
        with torch.inference_mode():
            logits, said = stream.step(self.model, cache, slots, [torch.from_numpy(c) for c in chunks], keep)
            log_probs = logits.float().log_softmax(-1).cpu().numpy()
        return [row[frames] for row, frames in zip(log_probs, said, strict=True)]


def load(
    name: str | Path, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> Transcriber:
    """Load a model by bundled name (`mha`, `mla`), folder, or hub id.

    Args:
        name: what to load.
        device: default `cuda` when there is one, else `cpu`.
        dtype: `float32`, `bfloat16` or `float16`; default what `precision` says on CUDA, float32 elsewhere.

    Raises:
        CheckpointError: the model cannot be found or read.
        ValueError: an unknown dtype, or a device that is not here.
    """
    device = device_of(device)
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choices: {', '.join(DTYPES)}")
    if dtype is None:
        on_gpu = device.type == "cuda"
        dtype = cuda_dtype(torch.cuda.get_device_capability(device))[0] if on_gpu else "float32"
    if device.type == "cuda":  # float32 is to mean float32: TF32 keeps three digits
        torch.backends.cudnn.allow_tf32 = False
    model, vocabulary = checkpoint.load(name, device, DTYPES[dtype] if isinstance(dtype, str) else dtype)
    return Transcriber(str(name), model, vocabulary, checkpoint.resolve(name))


def device_of(device: str | torch.device | None) -> torch.device:
    """The device of that name; without one `cuda` where there is one, else `cpu`. Raises ValueError naming it."""
    gpu = torch.cuda.is_available()
    try:
        found = torch.device(device or ("cuda" if gpu else "cpu"))
    except RuntimeError:
        raise ValueError(f"device is {device!r}; choices: cpu, cuda, cuda:1 and so on") from None
    if found.type == "cuda" and not gpu:
        raise ValueError(
            f"device is {str(device)!r}, but torch finds no CUDA device; without one models run on the CPU"
        )
    return found


def _pad(waves: list[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Waves -> float32 [B, longest] and int64 [B] on the device."""
    batch = torch.zeros(len(waves), max(len(wave) for wave in waves))
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    return batch.to(device), torch.tensor([len(wave) for wave in waves], device=device)


def _check(
    waves: Sequence[np.ndarray],
    chunk_frames: int | None,
    left_context_frames: int = 0,
    lookahead_frames: int = 0,
) -> None:
    for index, wave in enumerate(waves):
        if not isinstance(wave, np.ndarray):
            raise TypeError(
                f"wave {index} is a {type(wave).__name__}; give a list of arrays, as asr.audio.read makes"
            )
        if wave.ndim != 1:
            raise ValueError(f"wave {index} has shape {wave.shape}; one dimension is needed: mono at 16 kHz")
        if not np.isfinite(wave).all():
            raise ValueError(f"wave {index} holds NaN or infinity")
    if chunk_frames is not None and chunk_frames < 1:
        raise ValueError(f"chunk_frames is {chunk_frames}; at least 1, or None for the whole signal")
    if left_context_frames < 0:
        raise ValueError(f"left_context_frames is {left_context_frames}; at least 0")
    if lookahead_frames < 0:
        raise ValueError(f"lookahead_frames is {lookahead_frames}; at least 0")

"""The ways to run one model that are measured beside each other: our mha, mla at several cuts and paths, stock code.

`mla-lossless` and the stock arms give mha's outputs; the other mla arms are approximations, whose speed and memory are
of interest here, not their words.
"""

import gc
import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import asr
from asr import checkpoint
from asr.audio import SAMPLE_RATE
from asr.config import ModelConfig
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC
from offline import provenance, ranks
from offline.flops import forward_flops
from offline.speed.ceiling import synchronise
from offline.speed.twins import PATHS, latent_attentions, latent_twin, latents, on_path, share, stock_twin

ARMS = ["mha", "mla-lossless", "mla-75", "mla-87.5", "stock-eager", "stock-sdpa"]
STOCK = {"stock-eager": "eager", "stock-sdpa": "sdpa"}
LARGE = ModelConfig()  # the reference's 618M parameters
Wave = NDArray[np.float32]


class Label(NamedTuple):
    """Which arm: the model that it is made of, the way to run it, and for mla the attention's path."""

    model: str
    arm: str
    path: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in self if part)


class Timing(NamedTuple):
    """One batch: waves in memory to text, the forward in it, and on a GPU the bytes that came and went meanwhile."""

    whole_s: float
    forward_s: float
    transient_bytes: int


class Arm:
    """One way to run a model, with a stopwatch around the network: from its first convolution to the scores.

    Normalisation, padding and the transfer to the device come before, decoding after: those are in `whole_s` alone.
    `folder_hash` is the SHA-256 of the weights that it was made from; None for random ones.
    """

    folder_hash: str | None = None

    def __init__(self, label: Label, network: nn.Module, front_end: nn.Module, config: ModelConfig) -> None:
        self.label = label
        self.network = network
        self.config = config
        self._forward_s = self._started = 0.0
        front_end.register_forward_pre_hook(self._start)
        network.register_forward_hook(self._stop)

    def log_probs(self, waves: list[Wave]) -> list[NDArray[np.float32]]:
        """[frames, vocabulary] of each clip, run as one batch."""
        raise NotImplementedError

    def texts(self, waves: list[Wave]) -> list[str]:
        """What each clip says, run as one batch."""
        raise NotImplementedError

    def time(self, waves: list[Wave]) -> Timing:
        """Runs one batch from waves to texts."""
        device, self._forward_s = self.device, 0.0
        before_bytes = reset_peak(device)
        started = time.perf_counter()
        self.texts(waves)
        whole_s = time.perf_counter() - started
        peak_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        return Timing(whole_s, self._forward_s, peak_bytes - before_bytes)

    def absorbed(self, samples: Sequence[int]) -> list[bool]:
        """Of each mla layer, whether it attends on the latents in a batch of clips of so many samples."""
        frames = max(self.config.frames(n) for n in samples)
        return [attention.absorbs(frames, frames) for attention in latent_attentions(self.network)]

    def flops(self, samples: Sequence[int]) -> int:
        """Operations of one forward over clips of so many samples."""
        return forward_flops(self.config, samples, self.absorbed(samples))

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        head: Any = self.network.get_submodule("lm_head")
        dtype: torch.dtype = head.weight.dtype
        return dtype

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.network.state_dict().values())

    def describe(self) -> dict[str, Any]:
        """What this arm is, for the report."""
        cached = self.config.cached_values_per_frame()
        frames_per_s = SAMPLE_RATE / self.config.hop_samples
        return {
            "attention": self.config.attention.to_dict(),
            "implementation": STOCK.get(self.label.arm, "ours"),
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "weight_bytes": self.weight_bytes,
            "folder_hash": self.folder_hash,
            "cached_values_per_frame": cached,
            "cache_bytes_per_second": cached * self.dtype.itemsize * frames_per_s,
        }

    def _start(self, *_: Any) -> None:
        synchronise(self.device)
        self._started = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        synchronise(self.device)
        self._forward_s += time.perf_counter() - self._started


class OurArm(Arm):
    """Ours, as the service runs it."""

    def __init__(self, label: Label, network: ConformerCTC, vocabulary: Vocabulary) -> None:
        super().__init__(label, network, network.feature_extractor, network.config)
        self.transcriber = asr.Transcriber(str(label), network, vocabulary)

    def log_probs(self, waves: list[Wave]) -> list[NDArray[np.float32]]:
        return self.transcriber.log_probs(waves)

    def texts(self, waves: list[Wave]) -> list[str]:
        return [transcript.text for transcript in self.transcriber.transcribe(waves)]


class StockArm(Arm):
    """`transformers`, as its users run it: feature extractor, model, argmax, `batch_decode`."""

    def __init__(self, label: Label, source: ConformerCTC, vocabulary: Vocabulary) -> None:
        from transformers import Wav2Vec2FeatureExtractor

        network: Any = stock_twin(source, STOCK[label.arm])
        super().__init__(label, network, network.wav2vec2_conformer.feature_extractor, source.config)
        self.extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
        self.tokenizer = _tokenizer(vocabulary)

    @torch.inference_mode()
    def logits(self, waves: list[Wave]) -> Tensor:
        """[clips, frames, vocabulary] on the device; a batch's padding has leaked into them."""
        inputs = self.extractor(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding=True)
        samples = inputs.input_values.to(self.device, self.dtype)
        logits: Tensor = self.network(samples, attention_mask=inputs.attention_mask.to(self.device)).logits
        return logits

    def log_probs(self, waves: list[Wave]) -> list[NDArray[np.float32]]:
        scores = self.logits(waves).float().log_softmax(-1).cpu().numpy()
        return [clip[: self.config.frames(len(wave))] for clip, wave in zip(scores, waves, strict=True)]

    def texts(self, waves: list[Wave]) -> list[str]:
        return list(self.tokenizer.batch_decode(self.logits(waves).argmax(-1).cpu()))


def load_source(args: Namespace, index: int) -> asr.Transcriber:
    """Returns the float32 model of --model's entry `index`, or with --large that with seeded random weights.

    Raises CheckpointError.
    """
    if args.large:
        torch.manual_seed(0)
        with torch.device(args.device):
            model = ConformerCTC(LARGE).eval()
        return asr.Transcriber("large-random", model, checkpoint.read_vocabulary(checkpoint.resolve("mha")))
    source = asr.load(args.model[index], device=args.device, dtype="float32")
    source.name = provenance.tidy(source.name)
    return source


def build(source: asr.Transcriber, names: Sequence[str], paths: Sequence[str]) -> list[Arm]:
    """Returns the arms of these names, the mla ones once for each path; of an mla model its own paths alone.

    Raises ValueError for a name that is none, and for mla arms of a model with rotary positions.
    """
    arms = _arms(source, names, paths)
    for arm in arms:
        arm.folder_hash = source.folder_hash
    return arms


def _arms(source: asr.Transcriber, names: Sequence[str], paths: Sequence[str]) -> list[Arm]:
    model, vocabulary = source.model, source.vocabulary
    if model.config.attention.kind == "mla":
        return [OurArm(Label(source.name, "mla", path), on_path(model, path), vocabulary) for path in paths]
    made = [name for name in names if name.startswith("mla-")]
    if made and model.config.position_embeddings_type == "rotary":
        others = ",".join(["mha", *STOCK])
        raise ValueError(
            f"{source.name} has rotary positions, where no joint latent is exact: use --arms {others}"
        )
    bases = latents(model) if made else []
    arms: list[Arm] = []
    for name in names:
        if name == "mha":
            arms.append(OurArm(Label(source.name, name), share(model, model.config.attention), vocabulary))
        elif name in STOCK:
            arms.append(StockArm(Label(source.name, name), model, vocabulary))
        else:
            twin = latent_twin(model, rank_of(name, model.config.hidden_size), bases)
            arms += [
                OurArm(Label(source.name, name, path), on_path(twin, path), vocabulary) for path in paths
            ]
    return arms


def check(names: Sequence[str], paths: Sequence[str]) -> None:
    """Raises ValueError for what is no arm or no path."""
    for name in names:
        if name not in ("mha", *STOCK):
            rank_of(name, LARGE.hidden_size)
    for path in paths:
        if path not in PATHS:
            raise ValueError(f"{path!r} is no path; choices: {', '.join(PATHS)}")


def rank_of(name: str, width: int) -> int:
    """Latent values a frame of `mla-lossless` (the model's width) or, say, `mla-75` (75% of the cache cut).

    Raises ValueError with the choices.
    """
    if name == "mla-lossless":
        return width
    try:
        percent = float(name.removeprefix("mla-")) if name.startswith("mla-") else 0.0
    except ValueError:
        percent = 0.0
    if not 50 <= percent < 100:
        choices = f"{', '.join(ARMS)}, or mla- with another cut of the cache from 50 to below 100 percent"
        raise ValueError(f"{name!r} is no arm; choices: {choices}")
    least = ranks.step_of(width) / (2 * width)
    return ranks.rank_of(width, None, min(percent / 100, 1 - least))


def cast(arms: Sequence[Arm], dtype: torch.dtype) -> None:
    """Turns the weights of all arms to dtype in place, each shared tensor once; batch norm stays in float32."""
    for arm in arms:
        for name, parameter in arm.network.named_parameters():
            if ".batch_norm." not in name:
                parameter.data = parameter.data.to(dtype)
    gc.collect()


def _tokenizer(vocabulary: Vocabulary) -> Any:
    from transformers import Wav2Vec2CTCTokenizer

    tokens = vocabulary.tokens
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
        return Wav2Vec2CTCTokenizer(
            str(file), pad_token=tokens[vocabulary.blank], word_delimiter_token=tokens[vocabulary.delimiter]
        )


def reset_peak(device: torch.device) -> int:
    """Returns the bytes that are allocated on the GPU as the peak starts anew from them; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)

"""Teaches a new model's front end to hear a spectrum, before any text: it learns to predict log-mel energies.

From random kernels CTC has to find spectra and letters at once, and stays for a thousand steps at vowels. Predicting
80 log-mel energies of each frame's own 400 samples takes minutes, and CTC then starts from features that carry all
consonants. The output is a checkpoint folder for `offline.train --init_from`; its layers behind the front end are new.
A run that is stopped begins anew.
"""

import sys
from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import set_seed
from transformers.audio_utils import mel_filter_bank

from asr import checkpoint
from asr.audio import SAMPLE_RATE
from asr.encoder import ConformerCTC
from asr.normalise import normalise
from offline import cli, provenance
from offline.data import read_manifests
from offline.train import add_new_model_options, new_model, usable
from offline.training_data import Collator, RunSampler, SpeechDataset, plan

MELS = 80
FLOOR = 1e-2
EXAMPLE = "python -m offline.pretrain --train_manifest data/speech/train.jsonl --output_dir runs/front-end"


class LogMel(nn.Module):
    """Log-mel energies of exactly the samples that each frame of the front end sees."""

    window: Tensor
    bank: Tensor

    def __init__(self, window_samples: int, hop_samples: int) -> None:
        super().__init__()
        self.hop_samples = hop_samples
        bank = mel_filter_bank(window_samples // 2 + 1, MELS, 20.0, SAMPLE_RATE / 2, SAMPLE_RATE)
        self.register_buffer("window", torch.hann_window(window_samples))
        self.register_buffer("bank", torch.from_numpy(bank).float())

    def forward(self, waves: Tensor) -> Tensor:
        """Normalised waves [B, samples] -> [B, T, 80], about zero mean and unit variance."""
        windows = waves.unfold(1, len(self.window), self.hop_samples) * self.window
        power = torch.fft.rfft(windows).abs().square() / len(self.window)
        energies: Tensor = ((power @ self.bank + FLOOR).log() + 2.0) / 2.0
        return energies


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("--train_manifest", type=cli.paths, required=True, help="recordings; their text is not used")
    add("--output_dir", type=Path, required=True, help="checkpoint folder to write")
    add("--max_steps", type=cli.count, default=1500, help="optimiser steps")
    add("--max_duration_s", type=cli.positive, default=20.0, help="leave out longer recordings")
    add("--batch_seconds", type=cli.positive, default=60.0, help="padded audio in one batch")
    add("--learning_rate", type=cli.positive, default=2e-3, help="at its height; rises and falls as a cosine")
    add("--augment_strength", type=cli.weight, default=0.5, help="as in offline.train")
    add("--workers", type=cli.natural, default=1, help="processes that decode and augment")
    options.flag("--cpu", default=not torch.cuda.is_available(), help="leave the GPU alone")
    add_new_model_options(options)
    return options


def run(args: Namespace) -> float:
    """Pre-trains as args say and writes the folder; returns the last error (mean square; 1 is a guess)."""
    set_seed(args.seed)
    model, vocabulary = new_model(args)
    utterances = read_manifests(args.train_manifest, vocabulary)
    utterances = usable(utterances, model.config, vocabulary, args.max_duration_s)
    durations_s = [utterance.duration_s for utterance in utterances]
    batches = plan(durations_s, args.batch_seconds, args.max_steps, seed=args.seed)
    loader = DataLoader(
        SpeechDataset(utterances, vocabulary, seed=args.seed, strength=args.augment_strength),
        batch_sampler=RunSampler(batches),
        collate_fn=Collator(args.seed, chunk_share=0.0),
        num_workers=args.workers,
    )
    device = torch.device("cpu" if args.cpu else "cuda")
    error = fit(model.to(device), loader, args.learning_rate, args.max_steps)
    report = provenance.of_run("offline.pretrain", args, args.train_manifest, args.init_from)
    report |= {"device": device.type, "steps": args.max_steps, "error": error}
    checkpoint.save(model.cpu(), vocabulary, args.output_dir, report, dtype=torch.float32)
    return error


def fit(model: ConformerCTC, loader: DataLoader, learning_rate: float, steps: int) -> float:
    """Trains the front end alone, where the model is; returns the smoothed error of the last steps."""
    device = next(model.parameters()).device
    target = LogMel(model.config.receptive_samples, model.config.hop_samples).to(device)
    to_mels = nn.Linear(model.config.conv_dim[-1], MELS).to(device)
    head = nn.Sequential(model.feature_projection.layer_norm, to_mels)
    parameters = [*model.feature_extractor.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, learning_rate, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
    error = 1.0
    with tqdm(loader, "front end", total=steps) as bar:
        for batch in bar:
            lengths = batch["lengths"].to(device)
            waves = normalise(batch["waves"].to(device), lengths)
            with torch.autocast(device.type, torch.bfloat16):
                predicted = head(model.feature_extractor(waves))
            valid = torch.arange(predicted.shape[1], device=device) < model.frame_lengths(lengths)[:, None]
            loss = (predicted.float() - target(waves))[valid].square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            error += 0.05 * (float(loss.detach()) - error)
            bar.set_postfix(error=f"{error:.3f}", refresh=False)
    return error


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when done, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.pretrain", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())

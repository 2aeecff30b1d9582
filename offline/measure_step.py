"""Measures one fine-tuning step of a large model: seconds and peak memory, mixed precision, on random weights.

The model is the 618M-parameter reference architecture with a joint latent (mla) unless --model_config names another
config.json; the weights are seeded random ones, for which time and memory are the same. Only attention learns, as
offline.finetune has it by default: float32 weights, autocast, AdamW, float16 with a loss scaler. Each precision has a
process of its own, so that peaks do not mix. Steps include the clips' way from the loss back to the weights; loading,
decoding and the moving average are left out.

--output_file:
  what     git_commit, versions, machine, device, load_average; the latents' attention
  how      command, batch_size, clip_s, threads, trainable, distill
  results  precision, parameters and how many of them learn; steps, of each forward_s, backward_s, optimiser_s, loss and
           left_out (by the loss scaler); built_peak_bytes (before any step) and peak_bytes: resident on a CPU,
           allocated on a GPU
"""

import json
import os
import sys
import time
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from asr.audio import SAMPLE_RATE
from asr.config import Attention, ModelConfig
from asr.encoder import ConformerCTC
from offline import cli, files, provenance
from offline.finetuning.distill import Distilled, Weights
from offline.objective import Objective

EXAMPLE = "python -m offline.measure_step --precision bf16,fp16 --output_file results/finetune-large.json"
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LETTERS_PER_S = 14  # about what people read aloud


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("--output_file", type=Path, required=True, help="JSON to write")
    add("--precision", type=cli.names, default=["bf16"], help=f"one or more of {', '.join(PRECISIONS)}")
    add("--model_config", type=Path, help="config.json of another architecture, mha or mla")
    add(
        "--rank",
        type=cli.count,
        default=512,
        help="of the reference architecture's latents; 512 cuts 75%% of the cache",
    )
    add("--batch_size", type=cli.count, default=1, help="clips in the step's one batch")
    add("--clip_s", type=cli.positive, default=10.0, help="length of each")
    add(
        "--steps",
        type=cli.count,
        default=2,
        help="steps to take; the first also makes room for the optimiser's state",
    )
    options.flag(
        "--distill", default=False, help="with an MHA teacher in memory, as offline.finetune --distill has it"
    )
    options.flag("--cpu", default=not torch.cuda.is_available(), help="leave the GPU alone")
    return options


def config_of(args: Namespace) -> ModelConfig:
    """Returns the architecture to measure. Raises ValueError, naming the file, where there is none."""
    if args.model_config is None:
        attention = Attention(kind="mla", latent="joint", rank=(args.rank,) * ModelConfig.num_hidden_layers)
        return ModelConfig(attention=attention)
    try:
        return ModelConfig.from_dict(json.loads(args.model_config.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"--model_config {args.model_config}: {error}") from error


def batch_of(args: Namespace, config: ModelConfig, device: torch.device) -> dict[str, Tensor]:
    """Returns seeded noise with as many letters as speech of that length has."""
    samples, letters = round(args.clip_s * SAMPLE_RATE), max(1, int(args.clip_s * LETTERS_PER_S))
    waves = 0.1 * torch.randn(args.batch_size, samples)
    targets = torch.randint(5, config.vocab_size, (args.batch_size, letters))
    lengths = torch.full((args.batch_size,), samples)
    batch = {"waves": waves, "lengths": lengths, "targets": targets}
    return {k: v.to(device) for k, v in batch.items()} | {
        "target_lengths": torch.full((args.batch_size,), letters, device=device)
    }


def measure(args: Namespace, config: ModelConfig, precision: str) -> dict[str, Any]:
    """Takes the steps in this process; returns what they took."""
    torch.manual_seed(0)
    device = torch.device("cpu" if args.cpu else "cuda")
    objective = objective_of(args, config, device)
    objective.to(device).train()
    learning = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, 1e-5, fused=True)
    # lower than the default, at which the first steps overflow, and are left out instead of measured
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**8, enabled=precision == "fp16")
    batch = batch_of(args, config, device)
    built = peak_bytes(device)
    kind = PRECISIONS[precision]
    steps = [step(objective, batch, optimiser, scaler, kind) for _ in tqdm(range(args.steps), precision)]
    parameters = sum(parameter.numel() for parameter in objective.parameters())
    return {
        "precision": precision,
        "parameters": parameters,
        "parameters_learning": sum(parameter.numel() for parameter in learning),
        "steps": steps,
        "built_peak_bytes": built,
        # the kernel counts resident pages per core and sums them late: a later reading can be some pages less
        "peak_bytes": max(built, peak_bytes(device)),
    }


def objective_of(args: Namespace, config: ModelConfig, device: torch.device) -> Objective:
    """Returns the loss of a new model; with --distill, of one that has a new MHA model for a teacher."""
    model = ConformerCTC(config)
    learning: dict[str, Any] = {"trainable": "attention", "freeze_front_end": True}
    if not args.distill:
        return Objective(model, config.pad_token_id, **learning)
    teacher = ConformerCTC(replace(config, attention=Attention())).to(device)
    return Distilled(model, config.pad_token_id, teacher, Weights(), **learning)


def step(
    objective: Objective,
    batch: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    kind: torch.dtype,
) -> dict[str, Any]:
    """Takes one step; returns its loss, the seconds of its parts, and whether the scaler let it be."""
    device, scale = batch["waves"].device, scaler.get_scale()
    started = now(device)
    with torch.autocast(device.type, kind, enabled=kind != torch.float32):
        loss = objective(**batch)["loss"]
    heard = now(device)
    scaler.scale(loss).backward()
    back = now(device)
    scaler.unscale_(optimiser)
    torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
    scaler.step(optimiser)
    scaler.update()
    optimiser.zero_grad()
    seconds = {"forward_s": heard - started, "backward_s": back - heard, "optimiser_s": now(device) - back}
    outcome = {"loss": round(float(loss.detach()), 4), "left_out": scaler.get_scale() < scale}
    return {name: round(value, 3) for name, value in seconds.items()} | outcome


def now(device: torch.device) -> float:
    """Returns the seconds of a clock, after all that the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes(device: torch.device) -> int:
    """Returns the most memory so far: allocated on a GPU, else resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return provenance.peak_resident_bytes()


def run(args: Namespace) -> None:
    """Measures every precision asked for; writes the file after each."""
    unknown = sorted(set(args.precision) - set(PRECISIONS))
    if unknown:
        raise ValueError(f"--precision {', '.join(unknown)}: choices are {', '.join(PRECISIONS)}")
    config, results = config_of(args), []
    for precision in args.precision:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            results.append(alone.submit(measure, args, config, precision).result())
        print(sentence(results[-1]))
        files.write(args.output_file, json.dumps(report(args, config, results), indent=2) + "\n")


def report(args: Namespace, config: ModelConfig, results: list[dict[str, Any]]) -> dict[str, Any]:
    """What the file says."""
    what = {
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions("torch", "numpy"),
        "machine": provenance.machine(),
        "device": "cpu" if args.cpu else torch.cuda.get_device_name(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "attention": config.attention.to_dict(),
    }
    how = {
        "command": provenance.command("offline.measure_step"),
        "threads": torch.get_num_threads(),
        "batch_size": args.batch_size,
        "clip_s": args.clip_s,
        "distill": args.distill,
        "trainable": "attention",
    }
    return {"what": what, "how": how, "results": results}


def sentence(result: dict[str, Any]) -> str:
    """One line for the screen."""
    *_, last = result["steps"]
    seconds = sum(value for name, value in last.items() if name.endswith("_s"))
    learning, whole = (result[name] / 1e6 for name in ("parameters_learning", "parameters"))
    return (
        f"{result['precision']}: {seconds:.1f} s a step, {result['peak_bytes'] / 1e9:.1f} GB at most; "
        f"{learning:.0f}M of {whole:.0f}M parameters learn"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 0 when done, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.measure_step", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())

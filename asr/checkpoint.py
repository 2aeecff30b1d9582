"""Checkpoint folders: read Hugging Face's and our own, write what stock `transformers` loads.

A folder holds `config.json`, `vocab.json`, weights (`model.safetensors` or `pytorch_model.bin`, whole or sharded) and,
when we wrote it, `report.json`: how it was made. Tensor names are `transformers`' own. Nothing is ever unpickled:
`.bin` files load with `weights_only=True`.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from asr.audio import SAMPLE_RATE
from asr.config import ModelConfig
from asr.ctc import Vocabulary
from asr.encoder import ConformerCTC

BUNDLED = Path(__file__).parent / "bundled"
BUNDLED_NAMES = ("mha", "mla")
PREFIX = "wav2vec2_conformer."
# In every stock checkpoint, never used by a forward without masking: the position convolution is built and not called.
UNUSED = ("encoder.pos_conv_embed.", "encoder.embed_positions.", "masked_spec_embed")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
T = TypeVar("T")


class CheckpointError(ValueError):
    """A model that cannot be found or read; the text names the file and the reason."""


def resolve(name: str | Path) -> Path:
    """The folder behind a bundled name, a local folder (or a file in it), or a hub id `owner/name[@revision]`.

    A weight file by a name that others use, such as `converted_model.pt`, stands for the checkpoint folder that it
    would lie in, whether or not there is such a file.

    Raises:
        CheckpointError: there is no such thing, or the hub has not given it.
    """
    if str(name) in BUNDLED_NAMES:
        return BUNDLED / str(name)
    path = Path(name).expanduser()
    if path.exists():
        return path if path.is_dir() else path.parent
    if path.suffix in WEIGHT_SUFFIXES and (path.parent / "config.json").is_file():
        return path.parent
    if (
        path.parent != Path(".") and path.parent.is_dir()
    ):  # a path that was mistyped, not worth asking the hub about
        raise CheckpointError(f"no model {str(name)!r}: {path.parent} is here, but has no {path.name!r}")
    parts = str(name).partition("@")[0].split("/")  # a revision may hold slashes, too: refs/pr/3
    if len(parts) == 2 and all(parts) and not str(name).startswith((".", "~")):
        return _from_hub(str(name))
    raise CheckpointError(
        f"no model {str(name)!r}: it is neither a bundled name ({', '.join(BUNDLED_NAMES)}), nor a folder, "
        "nor a hub id like owner/name"
    )


def load(
    name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[ConformerCTC, Vocabulary]:
    """Read a model, in evaluation mode, and its vocabulary. `name` is what `resolve` takes.

    Raises:
        CheckpointError: a file is missing, unreadable, or does not fit the configuration; names the file.
    """
    folder = resolve(name)
    config = read_config(folder)
    _check_input(folder)
    vocabulary = read_vocabulary(folder)
    if len(vocabulary) != config.vocab_size:
        raise CheckpointError(
            f"{folder / 'vocab.json'}: {len(vocabulary)} tokens, config.json has {config.vocab_size}"
        )
    if vocabulary.blank != config.pad_token_id:
        raise CheckpointError(
            f"{folder}: pad_token_id is {config.pad_token_id}, vocab.json has the blank at {vocabulary.blank}"
        )
    try:
        with torch.device("meta"):
            model = ConformerCTC(config)
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    _fill(model, folder, torch.device(device), dtype)
    return model.eval(), vocabulary


def save(
    model: ConformerCTC,
    vocabulary: Vocabulary,
    folder: str | Path,
    report: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint folder; the weights in `dtype`, batch-norm statistics in float32.

    An `mha` folder loads in stock `transformers`, model and processor. Tensors that stock code builds but never uses
    are written as zeros, so that it does not report them missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        _stock_name(k): _cast(k, v.detach(), dtype).contiguous().cpu() for k, v in model.state_dict().items()
    }
    tensors |= {PREFIX + name: value.to(dtype) for name, value in _unused_tensors(model.config).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # the library leaves it to its owner alone
    dtype_name = str(dtype).removeprefix("torch.")
    _write(folder / "config.json", model.config.to_dict() | {"dtype": dtype_name})
    for name, content in _processor_files(vocabulary).items():
        _write(folder / name, content)
    if report is not None:
        _write(folder / "report.json", report)


def read_config(folder: Path) -> ModelConfig:
    """Parse a folder's `config.json`. Raises CheckpointError naming the file."""
    return _read(folder / "config.json", lambda text: ModelConfig.from_dict(json.loads(text)))


def read_vocabulary(folder: Path) -> Vocabulary:
    """The tokens of `vocab.json`, and of `added_tokens.json` where a fine-tuned model has one."""
    added = folder / "added_tokens.json"
    more = _read(added, json.loads) if added.exists() else {}
    return _read(folder / "vocab.json", lambda text: Vocabulary.from_tokens({**json.loads(text), **more}))


def _check_input(folder: Path) -> None:
    """Raise CheckpointError where the model was trained on other audio than it gets here, naming file and value.

    It says so in `preprocessor_config.json`, or, as transformers 5 writes it, in a part of `processor_config.json`.
    """
    for file in (folder / "preprocessor_config.json", folder / "processor_config.json"):
        given = _read(file, _feature_extractor) if file.exists() else {}
        for key, ours in {"do_normalize": True, "sampling_rate": SAMPLE_RATE}.items():
            if given.get(key, ours) != ours:
                found, wanted = json.dumps(given[key]), json.dumps(ours)
                raise CheckpointError(f"{file}: {key} is {found}, only {wanted} is supported")


def _feature_extractor(text: str) -> dict[str, Any]:
    values = json.loads(text)
    return {**values.get("feature_extractor", values)}


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights; safetensors first. Raises CheckpointError when there are none."""
    for name in WEIGHT_FILES:
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.exists():
            shards = _read(index, lambda text: sorted(set(json.loads(text)["weight_map"].values())))
            return [folder / shard for shard in shards]
    raise CheckpointError(
        f"{folder}: no weights; looked for {', '.join(WEIGHT_FILES)}, and their .index.json"
    )


def folder_hash(folder: Path) -> str:
    """SHA-256 over a folder's weight files. Raises CheckpointError when there are none."""
    digest = hashlib.sha256()
    for name in weight_files(folder):
        with open(name, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _fill(model: ConformerCTC, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Give a model on the meta device its tensors, checking that they are all there and fit."""
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for stock_name, tensor in _tensors(file):
            name = stock_name.removeprefix(PREFIX)
            if name.startswith(UNUSED):
                continue
            if name not in wanted:
                raise CheckpointError(f"{file}: tensor {stock_name!r} has no place in this model")
            if tensor.shape != wanted[name]:
                found, want = list(tensor.shape), list(wanted[name])
                raise CheckpointError(f"{file}: {stock_name!r} is {found}, config.json asks for {want}")
            state[name] = _cast(name, tensor, dtype).to(device)
    missing = [_stock_name(name) for name in wanted if name not in state]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(f"{folder}: weights lack {', '.join(missing[:3])}{more}")
    model.load_state_dict(state, assign=True)


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict, it has no __iter__
                    yield name, tensors.get_tensor(name)
        else:
            yield from torch.load(file, map_location="cpu", weights_only=True).items()
    except Exception as error:  # safetensors and torch each raise types of their own for a damaged file
        raise CheckpointError(
            f"{file}: cannot be read ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights in the model's dtype; batch norm stays in float32, where its small variances keep their digits."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.float32 if ".batch_norm." in name else dtype)


def _stock_name(name: str) -> str:
    return name if name.startswith("lm_head.") else PREFIX + name


def _unused_tensors(config: ModelConfig) -> dict[str, Tensor]:
    width, kernel = config.hidden_size, config.num_conv_pos_embeddings
    name = "encoder.pos_conv_embed.conv."
    tensors = {
        name + "bias": torch.zeros(width),
        name + "parametrizations.weight.original0": torch.zeros(1, 1, kernel),
        name + "parametrizations.weight.original1": torch.ones(
            width, width // config.num_conv_pos_embedding_groups, kernel
        ),
    }
    if config.position_embeddings_type == "rotary":
        steps = torch.arange(0, config.head_size, 2).float() / config.head_size
        tensors["encoder.embed_positions.inv_freq"] = 1.0 / config.rotary_embedding_base**steps
    if config.extra.get("mask_time_prob", 0.05) > 0 or config.extra.get("mask_feature_prob", 0.0) > 0:
        tensors["masked_spec_embed"] = torch.zeros(width)
    return tensors


def _processor_files(vocabulary: Vocabulary) -> dict[str, Any]:
    """What `Wav2Vec2Processor.from_pretrained` reads beside the weights."""
    roles = {"unk_token": ("<unk>", "[UNK]"), "bos_token": ("<s>",), "eos_token": ("</s>",)}
    special = {role: token for role, names in roles.items() for token in names if token in vocabulary.tokens}
    special["pad_token"] = vocabulary.tokens[vocabulary.blank]
    return {
        "vocab.json": {token: index for index, token in enumerate(vocabulary.tokens)},
        "special_tokens_map.json": special,
        "tokenizer_config.json": special
        | {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "word_delimiter_token": vocabulary.tokens[vocabulary.delimiter],
            "do_lower_case": False,
        },
        "preprocessor_config.json": {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "processor_class": "Wav2Vec2Processor",
            "feature_size": 1,
            "sampling_rate": SAMPLE_RATE,
            "do_normalize": True,
            "return_attention_mask": True,
            "padding_side": "right",
            "padding_value": 0.0,
        },
    }


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise CheckpointError(
            f"{name!r} is no local folder; for hub ids: pip install 'mla-asr[hub]'"
        ) from error
    repo, _, revision = name.partition("@")
    try:
        wanted = None  # offline: whatever the cache holds
        if not constants.HF_HUB_OFFLINE:
            try:
                wanted = _wanted(HfApi().list_repo_files(repo, revision=revision or None))
            except Exception as error:
                refused = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
                fetched = None if refused else cached(name)  # an outage: what was fetched before will do
                if fetched is None:
                    raise
                return fetched
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=wanted))
    except Exception as error:  # offline, unknown, gated: the hub's own words say which
        raise CheckpointError(f"{name!r} is no local folder, and the hub did not give it: {error}") from error


def cached(name: str) -> Path | None:
    """The folder of a hub id `owner/name[@revision]` in the hub's cache, if it has weights; asks nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repo, revision=revision or None, local_files_only=True))
        weight_files(folder)
    except (LocalEntryNotFoundError, CheckpointError):
        return None
    return folder


def _wanted(files: list[str]) -> list[str]:
    """Of a repository's files those that `load` reads: JSON at the root, and the weights in one format only."""
    root = [file for file in files if "/" not in file]
    for name in WEIGHT_FILES:
        stem, suffix = name.split(".")
        weights = [file for file in root if file.startswith(stem) and file.endswith(suffix)]
        if weights:
            return [file for file in root if file.endswith(".json")] + weights
    return [file for file in root if file.endswith(".json")]


def _read(file: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: no such file") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

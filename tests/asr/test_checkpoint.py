"""Folders in every form that Hugging Face has used, our own, broken ones, and what stock code reads of ours."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2ConformerForCTC, Wav2Vec2Processor

from asr import checkpoint, load
from asr.checkpoint import CheckpointError
from tests.asr.test_equality import stock
from tests.conftest import in_the_hubs_cache, noise, tiny_model

CLIP = noise(9_000)


def scores(folder: Path) -> np.ndarray:
    return load(folder, device="cpu").log_probs([CLIP])[0]


@pytest.fixture
def folder(tiny_folder, tmp_path: Path) -> Path:
    """A copy of the tiny mha folder that a test may change."""
    return Path(shutil.copytree(tiny_folder("mha"), tmp_path / "model"))


@pytest.mark.parametrize("kind", ["mha", "mla", "mla-separate"])
def test_saved_and_loaded_is_the_same(kind: str, tiny_folder, vocabulary) -> None:
    path = tiny_folder(kind)
    model, loaded_vocabulary = checkpoint.load(path)
    assert loaded_vocabulary.tokens == vocabulary.tokens
    assert model.config == tiny_model(kind).config
    for name, value in tiny_model(kind).state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("positions", ["relative", "rotary"])
def test_stock_transformers_loads_an_mha_folder(positions: str, tiny_folder) -> None:
    path = tiny_folder("mha", positions)
    model, info = Wav2Vec2ConformerForCTC.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    processor = Wav2Vec2Processor.from_pretrained(path)
    inputs = processor(CLIP, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        logits = model.eval()(inputs.input_values).logits
    assert np.abs(logits.log_softmax(-1)[0].numpy() - scores(path)).max() < 1e-4
    text = re.sub(
        "<s>|</s>|<unk>", "", processor.batch_decode(logits.argmax(-1))[0]
    )  # stock prints these mid-text
    assert text == load(path, device="cpu").transcribe([CLIP])[0].text


def old_names(tensors: dict) -> dict:
    new = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
    old = {"0": "encoder.pos_conv_embed.conv.weight_g", "1": "encoder.pos_conv_embed.conv.weight_v"}
    return {k.replace(new + k[-1], old[k[-1]]) if new in k else k: v for k, v in tensors.items()}


@pytest.mark.parametrize("names", ["old", "new"])
@pytest.mark.parametrize("form", ["safetensors", "bin", "sharded safetensors", "sharded bin"])
def test_every_form_of_weights_loads(form: str, names: str, folder: Path) -> None:
    expected = scores(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if names == "old":
        tensors = old_names(tensors)
        assert any(name.endswith("weight_g") for name in tensors)
    write = save_file if "safetensors" in form else torch.save
    name = "model.safetensors" if "safetensors" in form else "pytorch_model.bin"
    if "sharded" in form:
        stem, suffix = name.split(".")
        half = len(tensors) // 2
        shards = {f"{stem}-1.{suffix}": list(tensors)[:half], f"{stem}-2.{suffix}": list(tensors)[half:]}
        for shard, keys in shards.items():
            write({k: tensors[k] for k in keys}, folder / shard)
        weight_map = {key: shard for shard, keys in shards.items() for key in keys}
        (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    else:
        write(tensors, folder / name)
    assert np.array_equal(scores(folder), expected)


def test_transformers_own_sharded_folder_loads(tmp_path: Path, tiny_folder) -> None:
    model = stock()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    shutil.copy(tiny_folder("mha") / "vocab.json", tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert scores(tmp_path).shape == (27, 32)


def test_a_hub_id_is_found_in_the_hub_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real hub client, offline, on a cache laid out as it lays it out."""
    from huggingface_hub import constants

    in_the_hubs_cache(folder, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert np.array_equal(scores(Path("someone/some-model")), scores(folder))
    with pytest.raises(CheckpointError, match="someone/else"):
        checkpoint.resolve("someone/else")


def test_what_was_fetched_is_served_while_the_hub_is_away(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens at the hub's address; half a download is none."""
    import huggingface_hub
    from huggingface_hub import constants

    snapshot = in_the_hubs_cache(folder, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client tries for half a minute
    monkeypatch.setattr(
        huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:9")
    )
    assert checkpoint.resolve("someone/some-model").samefile(snapshot)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the hub did not give it"):
        checkpoint.resolve("someone/some-model")


def test_of_a_hub_repository_only_what_is_read_is_fetched() -> None:
    both = ["README.md", "config.json", "vocab.json", "model.safetensors", "pytorch_model.bin"]
    assert checkpoint._wanted(both) == ["config.json", "vocab.json", "model.safetensors"]
    sharded = [
        "config.json",
        "pytorch_model.bin.index.json",
        "pytorch_model-1.bin",
        "checkpoint-9/optimizer.bin",
    ]
    assert checkpoint._wanted([*sharded, "lm/5gram.bin"]) == sharded[:3]


def test_tokens_that_fine_tuning_added_are_read(folder: Path) -> None:
    tokens = json.loads((folder / "vocab.json").read_text())
    added = {name: tokens.pop(name) for name in ("X", "J", "Q", "Z")}
    (folder / "vocab.json").write_text(json.dumps(tokens))
    with pytest.raises(CheckpointError, match="28 tokens"):
        checkpoint.load(folder)
    (folder / "added_tokens.json").write_text(json.dumps(added))
    assert checkpoint.load(folder)[1].tokens[-4:] == ["X", "J", "Q", "Z"]


def test_a_file_in_the_folder_stands_for_the_folder(folder: Path) -> None:
    assert checkpoint.resolve(folder / "model.safetensors") == folder
    assert (
        checkpoint.resolve(folder / "converted_model.pt") == folder
    )  # a name that others give to the weights
    with pytest.raises(CheckpointError, match=r"notes\.txt"):
        checkpoint.resolve(folder / "notes.txt")
    with pytest.raises(CheckpointError, match="no model"):
        checkpoint.resolve(folder / "nowhere" / "converted_model.pt")


def spoil_config(key: str, value: object, name: str = "config.json"):
    def spoil(folder: Path) -> None:
        file = folder / name
        config = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(config | {key: value}))

    return spoil


PREPROCESSOR = "preprocessor_config.json"
BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "no vocabulary": (lambda f: (f / "vocab.json").unlink(), "vocab.json: no such file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights; looked for"),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"x" * 99),
        "model.safetensors: cannot be read",
    ),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "config no object": (lambda f: (f / "config.json").write_text("[]"), "config.json"),
    "no heads": (spoil_config("num_attention_heads", 0), "config.json"),
    "other model": (spoil_config("model_type", "whisper"), "'whisper'"),
    "group norm": (spoil_config("feat_extract_norm", "group"), "group norm averages over"),
    "newer format": (spoil_config("format_version", 99), "format_version is 99"),
    "wrong width": (spoil_config("intermediate_size", 96), "config.json asks for"),
    "more layers": (spoil_config("num_hidden_layers", 4), "weights lack"),
    "fewer layers": (spoil_config("num_hidden_layers", 2), "has no place"),
    "other vocabulary": (spoil_config("vocab_size", 40), "32 tokens"),
    "odd activation": (spoil_config("hidden_act", "mish"), "config.json: activation"),
    "another blank": (spoil_config("pad_token_id", 5), "blank at 0"),
    "plain audio": (
        spoil_config("do_normalize", False, PREPROCESSOR),
        "preprocessor_config.json: do_normalize is false",
    ),
    "other rate": (
        spoil_config("sampling_rate", 8000, PREPROCESSOR),
        "preprocessor_config.json: sampling_rate is 8000",
    ),
    "plain audio, as transformers 5 says it": (
        spoil_config("feature_extractor", {"do_normalize": False}, "processor_config.json"),
        "/processor_config.json: do_normalize is false",
    ),
    "preprocessor no object": (lambda f: (f / PREPROCESSOR).write_text("[]"), "preprocessor_config.json"),
}


@pytest.mark.parametrize(("spoil", "named"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_folder_is_named_with_its_reason(spoil, named: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=named):
        checkpoint.load(folder)


@pytest.mark.parametrize("said", [None, {}, {"do_normalize": True}, {"processor_class": "Wav2Vec2Processor"}])
def test_a_preprocessor_may_say_little(said: dict[str, object] | None, folder: Path) -> None:
    expected = scores(folder)
    (folder / PREPROCESSOR).unlink()
    if said is not None:
        for name in (PREPROCESSOR, "processor_config.json"):
            (folder / name).write_text(json.dumps(said))
    assert np.array_equal(scores(folder), expected)


def test_a_pickle_with_code_is_refused(folder: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (folder / "harmed",))

    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Harm()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(folder)
    assert not (folder / "harmed").exists()


def test_an_unknown_model_names_the_choices() -> None:
    with pytest.raises(CheckpointError, match="mha, mla"):
        load("mhha")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(dtype: str, tiny_folder) -> None:
    half = load(tiny_folder("mla"), device="cpu", dtype=dtype)
    assert half.dtype == getattr(torch, dtype)
    assert half.model.encoder.layers[0].conv_module.batch_norm.running_var.dtype == torch.float32
    assert half.cache_bytes_per_second == load(tiny_folder("mla"), device="cpu").cache_bytes_per_second / 2
    assert np.abs(half.log_probs([CLIP])[0] - scores(tiny_folder("mla"))).max() < 0.3


def test_an_unknown_dtype_names_the_choices(tiny_folder) -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        load(tiny_folder("mha"), dtype="int4")


@pytest.mark.parametrize(("device", "named"), [("gpu", "choices: cpu, cuda"), ("cuda", "no CUDA device")])
def test_a_device_that_is_not_here_is_named(device: str, named: str, tiny_folder) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("it is here")
    with pytest.raises(ValueError, match=f"device is '{device}'.*{named}"):
        load(tiny_folder("mha"), device=device)


def test_a_mistyped_path_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="runs is here, but has no 'nope'"):
        checkpoint.resolve("runs/nope")


def test_stock_code_does_not_take_an_mla_folder_for_one_of_its_own(tmp_path: Path) -> None:
    """It would load one with K and V at random."""
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="wav2vec2-conformer-mla"):
        transformers.AutoModelForCTC.from_pretrained(checkpoint.resolve("mla"))
    assert checkpoint.read_config(checkpoint.resolve("mla")).attention.kind == "mla"

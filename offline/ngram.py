"""Makes a word n-gram for the beam search, of the training sentences and of general English: an ARPA file, compressed.

It counts the texts of training manifests, the train side of the sentence sources, and drawn sentences of the everyday
and the telephone grammars, each different one once. What a manifest for dev or test holds is left out
wherever it comes from, and so is whatever falls on those sides by a hash of its text (offline/sentences.py; 6% of all
sentences, those of manifests too, unless --keep_all), so none of these counts has seen
a sentence that a model is measured on. Each source has counts of its own, and so has the rest, all that is of none;
to these comes a trigram of American English that PyPI's pocketsphinx has (offline/sphinx.py), whatever that was counted
in.
--weights says how much each is to count; offline/language.py, how they are counted, mixed and pruned.

Words are those seen at least --least_word times, or that the English trigram has; others count as <unk>.
"""

import gzip
import json
import sys
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from asr.ngram import UNKNOWN
from offline import cli, files, sphinx
from offline.language import arpa, kneser_ney, mixed, pruned
from offline.sentences import (
    dictionary_sentences,
    everyday_sentence,
    normalise,
    open_sentences,
    split_of,
    telephone_sentence,
)

EXAMPLE = """python -m offline.ngram --manifest data/speech/train.jsonl,data/more/train.jsonl \\
      --output_file asr/bundled/words.arpa.gz"""
SOURCES = {"open": open_sentences, "dictionary": dictionary_sentences}
REST, ENGLISH = "rest", "english"
WEIGHTS = {"open": 0.3, "dictionary": 0.05, REST: 0.2, ENGLISH: 0.45}
RAREST = 3e-8  # probability below which a word of the English trigram is left out: some 11,000 of 72,000


def sentences_of(args: Namespace) -> dict[str, set[str]]:
    """Returns the training sentences in upper case, each once, by the first source that has it and a weight.

    Raises:
        ValueError: nothing is left.
    """
    left_out = {text for file in args.leave_out or _for_measuring(args.manifest) for text in _texts(file)}
    rest = {text for file in args.manifest for text in _texts(file)}
    for draw, count in ((everyday_sentence, args.everyday), (telephone_sentence, args.telephone)):
        rng = np.random.default_rng(args.seed)
        for _ in tqdm(range(count), draw.__name__.replace("_", " "), unit="sentence", leave=False):
            rest.add(normalise(draw(rng)))
    print(f"left out: {len(left_out)} sentences to measure with")
    found: dict[str, set[str]] = {}
    for name, source in (*SOURCES.items(), (REST, None)):
        if args.weights[name]:
            texts = {normalise(sentence) for sentence in source()["train"]} if source else rest
            found[name] = texts.difference(left_out, *found.values())
    if not args.keep_all:
        every = sum(map(len, found.values()))
        found = {name: {text for text in texts if split_of(text) == "train"} for name, texts in found.items()}
        others = every - sum(map(len, found.values()))
        print(f"left out: {others} sentences that fall on the sides of dev and test (--keep_all keeps them)")
    found = {name: texts for name, texts in found.items() if texts}
    if not found:
        weighed = ", ".join(name for name, weight in args.weights.items() if weight)
        raise ValueError(f"no training sentence is left of what has a weight: {weighed}")
    return found


def _for_measuring(manifests: Sequence[Path]) -> list[Path]:
    """The manifests that are not for training, in all folders beside those of the given ones."""
    given = {manifest.resolve() for manifest in manifests}
    beside = {file for manifest in given for file in manifest.parent.parent.glob("*/*.jsonl")}
    return sorted(file for file in beside - given if file.name != "train.jsonl")


def _texts(manifest: Path) -> Iterator[str]:
    with manifest.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield " ".join(json.loads(line)["text"].upper().split())
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
                raise ValueError(f"{manifest}, line {number}: no JSON object with a text") from None


def make(args: Namespace) -> None:
    """Writes the n-gram and says how large it is."""
    sentences = sentences_of(args)
    english = sphinx.english(RAREST) if args.weights[ENGLISH] else None
    seen = Counter(word for texts in sentences.values() for text in texts for word in text.split())
    known = {word for (word,) in english.probs[0]} if english else set()
    vocabulary = {word for word, count in seen.items() if count >= args.least_word} | known
    models, weights = [], []
    for name, texts in sentences.items():
        lines = ([word if word in vocabulary else UNKNOWN for word in text.split()] for text in sorted(texts))
        models.append(kneser_ney(lines, args.order, vocabulary))
        weights.append(args.weights[name])
        print(f"{name}: {len(texts)} sentences, {sum(len(text.split()) for text in texts)} words")
    if english:
        models.append(english)
        weights.append(args.weights[ENGLISH])
        print(f"english: {', '.join(str(len(grams)) for grams in english.probs)} n-grams by length")
    model = pruned(mixed(models, weights), args.prune)
    # No name and no time in it: the same sentences give the same bytes.
    files.write(args.output_file, gzip.compress("".join(arpa(model)).encode(), compresslevel=9, mtime=0))
    size = args.output_file.stat().st_size / 2**20
    counts = ", ".join(str(len(grams)) for grams in model.probs)
    print(f"{args.output_file}: {size:.2f} MiB, {counts} n-grams by length")


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add(
        "--manifest",
        type=cli.paths,
        required=True,
        help="training manifests, texts of words alone: a.jsonl,b.jsonl",
    )
    add("--output_file", type=Path, required=True, help="the ARPA file to write, gzip-compressed")
    keep = "keep what falls on the sides of dev and test: for speech that is not of these sources"
    add("--keep_all", action="store_true", help=keep)
    others = (
        "manifests to leave the sentences of out; default: all but train.jsonl in the folders beside those"
    )
    add("--leave_out", type=cli.paths, help=others)
    add("--everyday", type=cli.natural, default=100_000, help="everyday sentences to draw")
    add("--telephone", type=cli.natural, default=100_000, help="sentences of telephone services to draw")
    shown = ",".join(f"{name}={weight}" for name, weight in WEIGHTS.items())
    about = "how much each source counts, the rest of the sentences, and general English; those not named: 0; default: "
    add("--weights", type=_weights, default=WEIGHTS, help=about + shown)
    add(
        "--order",
        type=cli.count,
        default=3,
        help="words of the longest n-grams that are counted; English has three",
    )
    prune = "change, in nats, below which an n-gram of several words is left out; 0: of none"
    add("--prune", type=cli.weight, default=1e-7, help=prune)
    add(
        "--least_word",
        type=cli.count,
        default=2,
        help="times that a word must have been seen; 1 for few sentences",
    )
    add("--seed", type=cli.natural, default=1, help="another seed, other drawn sentences")
    return options


def _weights(text: str) -> dict[str, float]:
    given = dict(part.partition("=")[::2] for part in cli.names(text))
    if strangers := [name for name in given if name not in WEIGHTS]:
        raise ArgumentTypeError(f"{', '.join(strangers)}: nothing to weigh; choices: {', '.join(WEIGHTS)}")
    weights = dict.fromkeys(WEIGHTS, 0.0)
    for name, number in given.items():
        try:
            weights[name] = cli.weight(number)
        except ArgumentTypeError as error:
            raise ArgumentTypeError(f"{name}={number}: {error}") from None
    if not any(weights.values()):
        raise ArgumentTypeError(f"{text!r}: one of the weights must be more than 0")
    return weights


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 when written, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.ngram", lambda: make(args))


if __name__ == "__main__":
    sys.exit(main())

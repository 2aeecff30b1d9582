"""Makes a word n-gram of the training sentences, for the beam search: an ARPA file, gzip-compressed.

It counts the texts of training manifests, the train side of the sentence sources (--sources), and drawn sentences of
the everyday and the telephone grammars, each different one once, those of the open source --open_weight times. What a
manifest for dev or test holds is left out wherever it comes from, and so is whatever falls on those sides
(offline/sentences.py), so the n-gram has seen no sentence that a model is measured on. To these come counts of words
and pairs on the web (--web, offline/web_counts.py), whatever those were counted in.

Probabilities are interpolated Witten-Bell (Witten and Bell, 1991; Chen and Goodman, 1999): counts of counts, which
Kneser-Ney goes by, mean little where a grammar makes sentences. Words seen fewer than --least_word times count as
<unk>; longer n-grams that were seen fewer than --least times are dropped, unless the web has them; the weights are such
that all still sum to 1.
"""

import gzip
import json
import math
import sys
from argparse import ArgumentTypeError, Namespace
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from offline import cli, files
from offline.sentences import (
    dictionary_sentences,
    everyday_sentence,
    normalise,
    open_sentences,
    split_of,
    telephone_sentence,
)
from offline.web_counts import START, web_counts

EXAMPLE = """python -m offline.ngram --manifest data/speech/train.jsonl,data/more/train.jsonl \\
      --output_file asr/bundled/words.arpa.gz"""
SOURCES = {"open": open_sentences, "dictionary": dictionary_sentences}
END, UNKNOWN = "</s>", "<unk>"
NEVER = -99.0  # how ARPA writes the logarithm of 0

Gram = tuple[str, ...]


def witten_bell(
    sentences: Iterable[Sequence[str]], order: int, least: int, more: Sequence[Counter[Gram]] = ()
) -> list[dict[Gram, float]]:
    """Returns the probability of each n-gram that is kept, by length.

    With c(h) what followed h and t(h) how many different words did, P(w|h) = (c(h,w) + t(h) P(w|h')) / (c(h) + t(h)),
    where h' is h without its first word. Below the single word nothing is left but words never seen: <unk> gets it.

    Args:
        sentences: words of each, <unk> among them where a word is to count as such.
        order: the longest n-grams.
        least: how often an n-gram of two words and more must have been seen to be kept.
        more: counts from elsewhere, by length, that are added; what is in them is kept.
    """
    counts = _count(sentences, order)
    for grams, others in zip(counts, more, strict=False):
        grams.update(others)
    given = {gram for others in more for gram in others}
    models: list[dict[Gram, float]] = []
    for grams in counts:
        followed: Counter[Gram] = Counter()
        different: Counter[Gram] = Counter()
        for gram, count in grams.items():
            followed[gram[:-1]] += count
            different[gram[:-1]] += 1
        model = {}
        for gram, count in grams.items():
            before, kinds = followed[gram[:-1]], different[gram[:-1]]
            shorter = models[-1][gram[1:]] if models else 0.0
            model[gram] = (count + kinds * shorter) / (before + kinds)
        if not models:
            model[(UNKNOWN,)] = 1.0 - sum(p for gram, p in model.items() if gram != (UNKNOWN,))
        models.append(model)
    # Parts of an n-gram were seen as often as it was, so they are kept with it.
    return [
        {gram: p for gram, p in model.items() if len(gram) == 1 or grams[gram] >= least or gram in given}
        for model, grams in zip(models, counts, strict=True)
    ]


def _count(sentences: Iterable[Sequence[str]], order: int) -> list[Counter[Gram]]:
    """How often each n-gram was seen, by length; <s> begins n-grams, but is never said."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for words in sentences:
        line = (START, *words, END)
        for at in range(1, len(line)):
            for size in range(1, min(order, at + 1) + 1):
                counts[size - 1][line[at + 1 - size : at + 1]] += 1
    return counts


def backoffs(models: Sequence[dict[Gram, float]]) -> dict[Gram, float]:
    """Returns the weight of each context: what is left to share, by what the shorter one gives to those who get it."""
    weights = {}
    for shorter, longer in pairwise(models):
        said: dict[Gram, float] = defaultdict(float)
        said_shorter: dict[Gram, float] = defaultdict(float)
        for gram, p in longer.items():
            said[gram[:-1]] += p
            said_shorter[gram[:-1]] += shorter[gram[1:]]
        for context, p in said.items():
            weights[context] = max(1.0 - p, 1e-9) / max(1.0 - said_shorter[context], 1e-9)
    return weights


def arpa(models: Sequence[dict[Gram, float]]) -> Iterator[str]:
    """Returns the lines of an ARPA file, sorted, logarithms to base 10 with four digits behind the point."""
    weights = backoffs(models)
    models = [{(START,): 0.0, **models[0]}, *models[1:]]
    yield "\\data\\\n"
    yield from (f"ngram {size}={len(model)}\n" for size, model in enumerate(models, 1))
    for size, model in enumerate(models, 1):
        yield f"\n\\{size}-grams:\n"
        for gram in sorted(model):
            weight = f"\t{math.log10(weights[gram]):.4f}" if gram in weights else ""
            log_prob = math.log10(model[gram]) if model[gram] > 0 else NEVER
            yield f"{log_prob:.4f}\t{' '.join(gram)}{weight}\n"
    yield "\n\\end\\\n"


def sentences_of(args: Namespace) -> set[str]:
    """Returns the training sentences, each once, in upper case. Raises ValueError where nothing is left."""
    left_out = {text for file in args.leave_out or _for_measuring(args.manifest) for text in _texts(file)}
    found = {text for file in args.manifest for text in _texts(file)}
    for name in args.sources:
        found |= {normalise(sentence) for sentence in SOURCES[name]()["train"]}
    for draw, count in ((everyday_sentence, args.everyday), (telephone_sentence, args.telephone)):
        rng = np.random.default_rng(args.seed)
        for _ in tqdm(range(count), draw.__name__.replace("_", " "), unit="sentence", leave=False):
            found.add(normalise(draw(rng)))
    print(f"left out: {len(left_out)} sentences to measure with")
    found = {text for text in found if text not in left_out and split_of(text) == "train"}
    if not found:
        raise ValueError("no training sentence is left")
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
    often = (
        {normalise(sentence) for sentence in open_sentences()["train"]} if "open" in args.sources else set()
    )
    texts = [
        text.split()
        for text in sorted(sentences_of(args))
        for _ in range(args.open_weight if text in often else 1)
    ]
    seen = Counter(word for words in texts for word in words)
    more = web_counts(args.web, {word for word, count in seen.items() if count >= args.least_word})
    known = {word for (word,) in more[0]}
    lines = [[w if seen[w] >= args.least_word or w in known else UNKNOWN for w in words] for words in texts]
    models = witten_bell(lines, args.order, args.least, more)
    # No name and no time in it: the same sentences give the same bytes.
    files.write(args.output_file, gzip.compress("".join(arpa(models)).encode(), compresslevel=9, mtime=0))
    size = args.output_file.stat().st_size / 2**20
    counts = ", ".join(f"{len(model)} of {length}" for length, model in enumerate(models, 1))
    print(
        f"{args.output_file}: {size:.2f} MiB, {len(texts)} sentences, {sum(map(len, texts))} words; n-grams by"
    )
    print(f"length: {counts}")


def parser() -> cli.Parser:
    """The command line."""
    options = cli.parser(__doc__ or "", EXAMPLE)
    add = options.add_argument
    add("--manifest", type=cli.paths, required=True, help="training manifests: a.jsonl,b.jsonl")
    add("--output_file", type=Path, required=True, help="the ARPA file to write, gzip-compressed")
    others = (
        "manifests to leave the sentences of out; default: all but train.jsonl in the folders beside those"
    )
    add("--leave_out", type=cli.paths, help=others)
    add(
        "--sources",
        type=_sources,
        default=list(SOURCES),
        help=f"further sentences, of {', '.join(SOURCES)}, or none",
    )
    add("--everyday", type=cli.natural, default=100_000, help="everyday sentences to draw")
    add("--telephone", type=cli.natural, default=100_000, help="sentences of telephone services to draw")
    add("--open_weight", type=cli.count, default=2, help="times that each sentence of the open source counts")
    web = "words of a text that the counts of words and pairs on the web are to weigh as much as; 0: without them"
    add("--web", type=cli.natural, default=2_000_000, help=web)
    add("--order", type=cli.count, default=3, help="words of the longest n-grams")
    add(
        "--least", type=cli.count, default=2, help="times that an n-gram of several words must have been seen"
    )
    add("--least_word", type=cli.count, default=2, help="times that a word must have been seen")
    add("--seed", type=cli.natural, default=1, help="another seed, other drawn sentences")
    return options


def _sources(text: str) -> list[str]:
    wanted = [] if text == "none" else cli.names(text)
    if strangers := [name for name in wanted if name not in SOURCES]:
        raise ArgumentTypeError(f"{', '.join(strangers)}: no source; choices: {', '.join(SOURCES)}, none")
    return wanted


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 when written, 2 when something given cannot be used."""
    args = parser().parse_args(argv)
    return cli.run("offline.ngram", lambda: make(args))


if __name__ == "__main__":
    sys.exit(main())

"""Ways to turn scores into text: the likeliest token of each frame, or a beam search, with an n-gram or without."""

import hashlib
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asr import ngram
from asr.search import Beam
from offline import cli, provenance

GREEDY = "greedy"
CHOICES = (GREEDY, "beam", "beam+lm")
Decodings = dict[str, Beam | None]  # by name


def add_options(options: cli.Parser) -> None:
    """The options that `chosen` reads."""
    add, given = options.add_argument, Beam()
    ways = f"ways to turn scores into text, each an arm: {', '.join(CHOICES)}: a,b"
    add("--decoding", type=cli.names, default=[GREEDY], metavar="NAME", help=ways)
    add("--beam", type=cli.count, default=given.width, help="texts that a beam search keeps")
    add(
        "--lm",
        type=Path,
        metavar="ARPA",
        help="n-gram of beam+lm, plain or gzip-compressed; default: the bundled one",
    )
    add("--alpha", type=cli.weight, default=given.alpha, help="weight of the n-gram")
    add("--beta", type=cli.weight, default=given.beta, help="what each word earns beside the n-gram")
    add(
        "--blank_penalty",
        type=cli.weight,
        default=given.blank_penalty,
        help="what each blank costs with the n-gram",
    )
    add("--hot_words", type=cli.names, default=[], help="words and phrases that a beam search prefers: a,b")
    add("--boost", type=cli.weight, default=given.boost, help="what each letter of those earns")


def chosen(args: Namespace) -> Decodings:
    """Returns how to search in each of --decoding, None for greedy. Raises ValueError for one that is unknown."""
    if strangers := sorted(set(args.decoding) - set(CHOICES)):
        raise ValueError(f"--decoding {', '.join(strangers)}: none; choices: {', '.join(CHOICES)}")
    if args.lm and "beam+lm" not in args.decoding:
        raise ValueError(f"--lm {args.lm} is of --decoding beam+lm, not of {', '.join(args.decoding)}")
    if args.hot_words and args.decoding == [GREEDY]:
        raise ValueError("--hot_words are of a beam search: add --decoding beam or beam+lm")
    lm = args.lm or ngram.BUNDLED
    if "beam+lm" in args.decoding:
        ngram.read(lm)
    common: dict[str, Any] = {"width": args.beam, "hot_words": tuple(args.hot_words), "boost": args.boost}
    ways = {
        GREEDY: None,
        "beam": Beam(**common),
        "beam+lm": Beam(**common, lm=lm, alpha=args.alpha, beta=args.beta, blank_penalty=args.blank_penalty),
    }
    return {name: ways[name] for name in args.decoding}


def facts(beam: Beam) -> dict[str, Any]:
    """Returns the settings of a search as a result holds them; of its n-gram the file and its SHA-256."""
    lm = {}
    if beam.lm:
        lm = {"lm": provenance.relative(beam.lm), "lm_hash": hashlib.sha256(beam.lm.read_bytes()).hexdigest()}
    return {**asdict(beam), "lm": None, **lm}

"""report.md: the figures of report.json as tables, with the sentences that follow from them."""

from collections.abc import Sequence
from typing import Any

from offline.comparison import tables
from offline.comparison.claims import NOTICEABLE
from offline.comparison.tables import interval, number, share, table

Row = dict[str, Any]
TESTS = ("mapsswe", "sign_flip", "non_inferiority", "equivalence")
METHOD = """\
Paired bootstrap of the ratio of sums ({resamples:,} draws, seed {seed}), clustered by {by}; with two \
factors the variance is V1 + V2 - V12 (Cameron, Gelbach and Miller 2011), widened for few clusters \
(Hesterberg 2015) and by as much as four further errors, so that no difference among few words proves \
nothing. Intervals are two-sided 95 %; *non-inferior* means that the upper end lies below {margin:g} \
points, or the arm's own margin ({margins}; one-sided 97.5 %), *worse by more than the margin* that the \
lower end lies above it. MAPSSWE: matched pairs of sentence segments (Gillick and Cox 1989), which takes \
no account of clusters. Sign flip: permutation of whole clusters, scaled to the same variance. Holm: \
adjusted for all comparisons of different models in this report. The p of non-inferiority belongs to the \
hypothesis that the arm is worse by the margin or more; that of equivalence is the larger of the two \
one-sided tests. Words needed are for a power of 80 %, from the variance seen here. Raw WER: upper case, \
nothing else changed; normalised WER: as the Open ASR Leaderboard compares."""


def markdown(found: Row) -> str:
    """Returns the whole report."""
    sections = [_title(found), "## What MLA bought, and what it did not", _summary(found["summary"]),
                "## Claims of the workflow", _claims(found["claims"]),
                "## Word error rates", error_rates(found), _undecided(found), _settings(found), _tests(found),
                _pictures(found),
                "## What it costs", tables.costs(found),
                "## Identical transcripts", tables.identical(found)]  # fmt: skip
    for field in ("domain", "engine"):
        sections += _section(f"## By {field}", tables.by_group(found, field))
    sections += _section("## By voice", tables.by_voice(found))
    sections += ["## Errors that only one of them makes", *map(tables.errors, tables.of_other_models(found))]
    sections += _section("## Conversions", tables.conversions(found["conversions"]))
    sections += _section("## Benchmarks", "\n\n".join(map(tables.benchmark, found["benchmarks"])))
    how = found["how"]
    own = ", ".join(f"{name}: {margin:g}" for name, margin in how["margins"].items()) or "none given"
    told = how | {"margins": own, "by": " and ".join(how["clustered_by"])}
    sections += ["## How", METHOD.format(**told), _files(found)]
    return "\n\n".join(filter(None, sections)) + "\n"


def _section(title: str, text: str) -> list[str]:
    return [title, text] if text else []


def _title(found: Row) -> str:
    said, baseline = found["utterances"], found["how"]["baseline"]
    distinct = ", ".join(f"{count:,} {name}s" for name, count in said["distinct"].items())
    return (
        f"# Compared with {baseline}: {', '.join(name for name in found['arms'] if name != baseline)}\n\n"
        f"{said['count']:,} utterances, {said['words']:,} words, {said['audio_s'] / 3600:.2f} h of audio "
        f"({', '.join(filter(None, said['manifests']))}): {distinct}."
    )


def _summary(summary: dict[str, list[str]]) -> str:
    titles = {"bought": "Bought", "not_bought": "Not bought, or paid for it", "not_shown": "Not shown here"}
    parts = [
        f"**{title}**\n\n" + "\n".join(f"- {sentence}" for sentence in summary[key])
        for key, title in titles.items()
        if summary[key]
    ]
    small = f"Speed and parameters that differ by less than {100 * NOTICEABLE:g}% are not counted as bought."
    return "\n\n".join([*parts, small]) if parts else "No mla arm was compared with an mha arm."


def _claims(claims: list[Row]) -> str:
    rows = [
        [claim["claim"], f"**{claim['verdict']}**", claim["figures"], claim["where"], claim["at_618m"]]
        for claim in claims
    ]
    return table(["claim", "verdict", "figures", "measured where", "on the 618M model"], rows, padded=False)


def error_rates(found: Row) -> str:
    """Returns the main table: each arm's WER, its difference from what it is compared with, and the verdict."""
    head = ["arm", "against", "method", "cache cut", "WER %", "95 %", "difference", "95 %", "relative %", "verdict",
            "identical"]  # fmt: skip
    rows = []
    for name, arm in found["arms"].items():
        own = [method_of(arm), share(arm["cache_cut"]), number(arm["wer"]), interval(arm["wer_95"])]
        pairs = [row for row in found["comparisons"] if row["arm"] == name]
        rows += [[name, pair["baseline"], *own, *_difference(pair)] for pair in pairs]
        rows += [[name, "", *own, *[""] * 5]] if not pairs else []
    return table(head, rows)


def method_of(arm: Row) -> str:
    """Returns how an arm's attention was made: mha, or its latents and the method."""
    return " ".join(str(part) for part in (arm["latent"] or arm["kind"], arm["method"]) if part)


def _difference(pair: Row) -> list[str]:
    return [
        number(pair["difference"], sign=True),
        interval(pair["interval_95"], sign=True),
        number(pair["relative"], 1, sign=True),
        "same model" if pair["same_model"] else pair["verdict"],
        share(pair["identical"], 2),
    ]


def _tests(found: Row) -> str:
    """The p-values of each comparison, what they rest on, and the difference of the normalised texts."""
    head = ["arm", "against", "p MAPSSWE (Holm)", "p sign flip (Holm)", "p non-inferiority (Holm)", "p equivalence",
            "discordant errors", "over-dispersion", "normalised WER %", "difference", "95 %"]  # fmt: skip
    rows = []
    for pair in found["comparisons"]:
        p_values = [tables.p_value(pair["p"], name) for name in TESTS]
        base = [number(pair["discordant_errors"], 0), number(pair["over_dispersion"])]
        other = pair["normalised"] or {"value": None, "interval_95": [None, None]}
        normalised = number(found["arms"][pair["arm"]]["wer_normalised"]), number(other["value"], sign=True)
        bounds = interval(other["interval_95"], sign=True)
        rows.append([pair["arm"], pair["baseline"], *p_values, *base, *normalised, bounds])
    return table(head, rows)


def _undecided(found: Row) -> str:
    """What it would take to decide, of each comparison that is not."""
    pairs = [pair for pair in tables.of_other_models(found) if pair["words_needed"]]
    return "\n".join(
        f"- {pair['arm']} against {pair['baseline']} is undecided on {pair['words']:,} words with "
        f"{pair['discordant_errors']:,} discordant errors{_over_dispersion(pair)}: "
        f"{_words_needed(pair, pair['margin'])}."
        for pair in pairs
    )


def _over_dispersion(pair: Row) -> str:
    known = pair["over_dispersion"] is not None
    return f" (over-dispersion {number(pair['over_dispersion'])})" if known else ""


def _words_needed(pair: Row, margin: float) -> str:
    equal, seen = (pair["words_needed"][key] for key in ("if_equal", "if_as_seen"))
    outcome = "worse by more than the margin" if pair["difference"] > margin else "non-inferior"
    said = [f"about {equal:,} words would show it non-inferior if the two are equal"] if equal else []
    if seen and (seen != equal or outcome != "non-inferior"):  # else said already
        said.append(f"about {seen:,} words would show it {outcome} if they differ as seen")
    return ", ".join(said) or "no number of words would decide, if they differ as seen"


def _settings(found: Row) -> str:
    """What else differs within a comparison, or between a verdict and one that accounts for all comparisons."""
    said = [
        f"- {pair['arm']} and {pair['baseline']} also differ in {_changes(pair['settings_that_differ'])}."
        for pair in found["comparisons"]
        if pair["settings_that_differ"] and not pair["same_model"]
    ]
    alpha = 0.025
    said += [
        f"- {pair['arm']}: the verdict does not outlive the adjustment for all {len(tables.of_other_models(found))} "
        f"comparisons of different models "
        f"(Holm p of non-inferiority {number(pair['p']['non_inferiority_holm'], 3)}, at least {alpha})."
        for pair in found["comparisons"]
        if pair["verdict"] == "non-inferior" and pair["p"].get("non_inferiority_holm", 0) >= alpha
    ]
    return "\n".join(said)


def _changes(differs: dict[str, Sequence[Any]]) -> str:
    return ", ".join(
        f"{name} ({' / '.join(tables.setting(name, value) for value in values)})"
        for name, values in differs.items()
    )


def _pictures(found: Row) -> str:
    names = [name for name in found["plots"] if name.endswith(".svg")]
    return "\n\n".join(f"![{name.removesuffix('.svg').replace('_', ' ')}]({name})" for name in names)


def _files(found: Row) -> str:
    files = "\n".join(f"- `{name}` {digest[:12]}" for name, digest in found["what"]["files"].items())
    return (
        f"Command: `{found['how']['command']}`, commit {found['what']['git_commit'] or 'unknown'}.\n\n{files}"
    )

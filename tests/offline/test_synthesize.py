"""Sentences, voices and the command that joins them; engines that are not installed are skipped."""

import json
import re
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from offline import synthesize
from offline.engines.kokoro import _WEAK, _strong
from offline.sentences import (
    FORTUNES,
    SCOWL,
    WORDNET,
    common_words,
    dictionary_sentences,
    everyday_sentence,
    normalise,
    open_sentences,
    spell_number,
    spell_year,
    split_of,
    telephone_sentence,
    word_sentence,
)
from offline.synthesize import DEFAULT_SHARES, SENTENCES_OF, UNSEEN, Recipe, main, plan, shares_of
from offline.voices import ENGINES, available

TEXT = re.compile(r"[A-Z']+( [A-Z']+)*")
RECIPE = Recipe(1, shares_of(list(DEFAULT_SHARES), {}), 0.65)
needs_fortunes = pytest.mark.skipif(not FORTUNES.is_dir(), reason="the fortunes package is not installed")
needs_scowl = pytest.mark.skipif(not SCOWL.is_dir(), reason="the scowl package is not installed")
needs_wordnet = pytest.mark.skipif(not WORDNET.is_dir(), reason="the wordnet-base package is not installed")


def problem(engine: str) -> str | None:
    return ENGINES[engine].problem()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (21, "twenty one"),
        (305, "three hundred and five"),
        (999_999, "nine hundred and ninety nine thousand nine hundred and ninety nine"),
        (2007, "two thousand and seven"),
    ],
)
def test_numbers_are_spelled(number: int, words: str) -> None:
    assert spell_number(number) == words


@pytest.mark.parametrize(
    ("year", "words"),
    [
        (1905, "nineteen oh five"),
        (1984, "nineteen eighty four"),
        (2000, "two thousand"),
        (1900, "nineteen hundred"),
    ],
)
def test_years_are_spelled_as_said(year: int, words: str) -> None:
    assert spell_year(year) == words


def test_numbers_beyond_the_speller_are_refused() -> None:
    with pytest.raises(ValueError, match="1000000"):
        spell_number(1_000_000)


def test_normalise_keeps_words_alone() -> None:
    assert normalise("Well, it's a far-off place; isn't it?") == "WELL IT'S A FAR OFF PLACE ISN'T IT"


@pytest.mark.parametrize("sentence", ["Room 5.", "Caf\u00e9.", "...", "A_b"])
def test_normalise_refuses_what_is_not_words(sentence: str) -> None:
    with pytest.raises(ValueError, match="not plain words"):
        normalise(sentence)


def test_everyday_sentences_cover_the_letters_and_differ() -> None:
    rng = np.random.default_rng(0)
    texts = [normalise(everyday_sentence(rng)) for _ in range(4000)]
    letters = Counter("".join(texts))
    assert all(letters[letter] > 200 for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
    assert len(set(texts)) > 3000
    assert 450 < len({word for text in texts for word in text.split()}) < 800
    assert Counter(map(split_of, texts)).keys() == {"train", "dev", "test"}


@needs_fortunes
def test_open_sentences_are_clean_and_on_one_side_only() -> None:
    sides = open_sentences()
    texts = {side: {normalise(sentence) for sentence in sentences} for side, sentences in sides.items()}
    assert len(texts["train"]) > 5000 and len(texts["test"]) > 100
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["dev"]
    assert all(TEXT.fullmatch(text) and 3 <= len(text.split()) <= 20 for text in texts["train"])


@needs_wordnet
def test_dictionary_sentences_are_clean_many_and_on_one_side_only() -> None:
    sides = dictionary_sentences()
    assert {"A school for training nurses.", "A musician who plays the lute."} <= set(sides["train"])
    assert all(split_of(normalise(sentence)) == "train" for sentence in sides["train"])
    assert all(TEXT.fullmatch(normalise(sentence)) for sentence in sides["train"])
    assert len({word for sentence in sides["train"] for word in normalise(sentence).split()}) > 20_000


def test_the_telephone_says_plain_words_and_what_menus_need() -> None:
    rng = np.random.default_rng(0)
    texts = [normalise(telephone_sentence(rng)) for _ in range(5000)]
    assert all(TEXT.fullmatch(text) and len(text.split()) < 30 for text in texts)
    assert len(set(texts)) > 3000
    words = Counter(word for text in texts for word in text.split())
    assert (
        min(words[word] for word in "PRESS CONFERENCE MAILBOX EXTENSION INVALID OPTIONS POUND".split()) > 20
    )


@needs_scowl
def test_lists_of_words_are_short_and_draw_each_of_thousands() -> None:
    rng = np.random.default_rng(0)
    texts = [normalise(word_sentence(rng)).split() for _ in range(5000)]
    assert {len(words) for words in texts} == {1, 2, 3, 4, 5}
    lists = common_words()
    assert set(lists[10]) & {"message", "invalid"} and not set(lists[10]) & set(lists[35])
    assert len({word for words in texts for word in words}) > 8000


@needs_fortunes
@needs_scowl
def test_telephone_and_words_are_for_training_and_leave_other_draws_as_they_were() -> None:
    mixed = Recipe(1, RECIPE.shares, 0.65, telephone_share=0.15, words_share=0.1)
    plain = Recipe(1, RECIPE.shares, 0.65)
    for split in ("dev", "test-seen-voices"):
        assert [plan(mixed, split, i).file_name for i in range(50)] == [
            plan(plain, split, i).file_name for i in range(50)
        ]
    with_it, without = ([plan(recipe, "train", i) for i in range(300)] for recipe in (mixed, plain))
    domains = Counter(one.domain for one in with_it)
    assert domains["everyday"] > domains["telephone"] > 25 and domains["words"] > 15 and domains["open"] > 15
    assert all(
        a.sentence == b.sentence and a.voice == b.voice
        for a, b in zip(with_it, without, strict=True)
        if a.domain in ("everyday", "open")
    )


@needs_fortunes
@needs_wordnet
def test_the_dictionary_is_for_training_and_leaves_other_draws_as_they_were() -> None:
    mixed = Recipe(1, RECIPE.shares, 0.65, dictionary_share=0.2)
    for split in ("dev", "test-seen-voices"):
        assert [plan(mixed, split, i).file_name for i in range(50)] == [
            plan(RECIPE, split, i).file_name for i in range(50)
        ]
    with_it, without = ([plan(recipe, "train", i) for i in range(300)] for recipe in (mixed, RECIPE))
    domains = Counter(one.domain for one in with_it)
    assert domains["everyday"] > domains["dictionary"] > 30 and domains["open"] > 20
    assert all(
        a.sentence == b.sentence and a.voice == b.voice
        for a, b in zip(with_it, without, strict=True)
        if a.domain != "dictionary"
    )


@needs_fortunes
def test_no_sentence_and_no_held_out_voice_leaks() -> None:
    plans = {split: [plan(RECIPE, split, index) for index in range(400)] for split in SENTENCES_OF}
    texts = {split: {normalise(one.sentence) for one in planned} for split, planned in plans.items()}
    assert not texts["train"] & (texts["dev"] | texts["test-seen-voices"] | texts[UNSEEN])
    assert not texts["dev"] & (texts["test-seen-voices"] | texts[UNSEEN])
    for split, planned in plans.items():
        assert {one.voice.held_out for one in planned} == {split == UNSEEN}
        assert {one.voice.engine for one in planned} == set(DEFAULT_SHARES)


@pytest.mark.parametrize("engine", ENGINES)
def test_voices_have_names_of_their_own_and_some_are_held_out(engine: str) -> None:
    voices = ENGINES[engine].voices()
    assert len({voice.name for voice in voices}) == len({voice.settings for voice in voices}) == len(voices)
    assert {voice.held_out for voice in voices} == {True, False}
    assert voices == ENGINES[engine].voices()


def test_no_two_engines_share_a_voice() -> None:
    """A clip's file is named after its voice: with another engine in the same folder it must not be taken for done."""
    names = [voice.name for engine in ENGINES.values() for voice in engine.voices()]
    assert len(set(names)) == len(names)


@pytest.mark.skipif(bool(problem("kokoro-clear")), reason="kokoro-clear cannot speak here")
def test_clear_speech_has_full_forms_of_whole_words_alone() -> None:
    rng = np.random.default_rng(0)
    said = [_WEAK.sub(lambda weak: _strong(weak[0], rng), "tə mətə tˈu, ɐ ɐmˈʌŋ ɔɹ") for _ in range(200)]
    assert {line.split()[0] for line in said} == {"tə", "tˈu"} and {line.split()[-1] for line in said} == {
        "ɔɹ",
        "ˈɔɹ",
    }
    assert {line.split()[1] for line in said} == {"mətə"} and {line.split()[4] for line in said} == {"ɐmˈʌŋ"}
    assert 0.6 < np.mean([line.startswith("tˈu") for line in said]) < 0.8


def test_no_speaker_that_trains_has_anything_of_a_style_that_is_held_out() -> None:
    styles = {False: set[str](), True: set[str]()}
    for voice in ENGINES["kokoro-en"].voices():
        styles[voice.held_out] |= {name for name in voice.settings[1] if name[0] in "ab"}  # the English ones
    assert len(styles[True]) == 4 and len(styles[False]) == 24 and not styles[True] & styles[False]


def test_no_mixture_that_trains_has_anything_of_a_person_who_is_held_out() -> None:
    people = {False: set[int](), True: set[int]()}
    for voice in ENGINES["silero"].voices():
        people[voice.held_out] |= set(voice.settings[0])
    assert len(people[True]) == 12 and len(people[False]) == 106 and not people[True] & people[False]


@pytest.mark.skipif(bool(problem("silero")), reason="make silero")
def test_a_person_of_silero_is_in_no_other_voice() -> None:
    first, second = (
        replace(ENGINES["silero"].voices()[0], settings=((0, 1), share, 1.0)) for share in (1, 0)
    )
    said = [
        ENGINES["silero"].speak("To me?", voice, np.random.default_rng(5))[0]
        for voice in (first, second, first)
    ]
    assert not np.array_equal(said[0], said[1]) and np.array_equal(said[0], said[2])


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_speaks_the_same_again_from_the_same_seed(engine: str) -> None:
    if missing := problem(engine):
        pytest.skip(missing)
    voice = ENGINES[engine].voices()[-1]
    sentence = "Please meet me at the zoo."
    first, again, third = (ENGINES[engine].speak(sentence, voice, np.random.default_rng(5)) for _ in range(3))
    samples, rate = first
    assert 0.7 < len(samples) / rate < 6 and samples.dtype == np.float32
    assert np.sqrt(np.mean(samples**2)) > 0.01
    alike = [np.array_equal(a[0], b[0]) for a, b in ((first, again), (again, third), (third, first))]
    # espeak-ng once put out other samples, for a reason not found, and not again in 12,000 calls
    assert any(alike) if engine == "espeak" else all(alike)


def command(folder: Path, *more: str) -> list[str]:
    sizes = ["--hours", "0.01", "--dev-clips", "3", "--test_seen_clips", "4", "--test_unseen_clips", "4"]
    return ["--output_dir", str(folder), "--engines", "espeak,flite", "--workers", "1", *sizes, *more]


def rows(folder: Path, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


@needs_fortunes
@pytest.mark.skipif(bool(problem("espeak") or problem("flite")), reason="espeak-ng or flite is not installed")
def test_a_small_run_is_complete_and_is_taken_up_again(tmp_path: Path) -> None:
    main(command(tmp_path))
    for split in SENTENCES_OF:
        for row in rows(tmp_path, split):
            info = soundfile.info(tmp_path / row["audio_filepath"])
            assert (info.samplerate, info.channels, info.format) == (16_000, 1, "FLAC")
            assert info.duration == pytest.approx(row["duration"], abs=1e-3) and info.duration < 16
            assert TEXT.fullmatch(row["text"]) and row["domain"] in ("everyday", "open")
    assert [len(rows(tmp_path, split)) for split in SENTENCES_OF if split != "train"] == [3, 4, 4]
    assert 36 <= sum(row["duration"] for row in rows(tmp_path, "train")) < 52

    manifest, audio = (tmp_path / "train.jsonl").read_bytes(), sorted(tmp_path.glob("audio/train/*.flac"))
    kept, lost = audio[0].stat().st_mtime_ns, audio[1].read_bytes()
    audio[1].unlink()
    (tmp_path / "train.jsonl").unlink()
    main(command(tmp_path))
    assert (tmp_path / "train.jsonl").read_bytes() == manifest
    assert audio[0].stat().st_mtime_ns == kept and audio[1].read_bytes() == lost


def test_a_named_engine_that_is_absent_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="flite is not installed: apt-get install flite"):
        available(["flite"])


def test_an_absent_engine_that_nobody_named_is_skipped_with_a_notice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if problem("hibari"):
        pytest.skip("hibari-tts is not installed, so no engine would be left")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "hibari" in available(None) and "espeak" not in available(None)
    assert "skipping espeak: espeak-ng is not installed: apt-get install espeak-ng" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            ["--engines", "siri"],
            "unknown engine siri; choose from espeak, flite, festival, hibari, kokoro, kokoro-wide, kokoro-en, "
            "kokoro-clear, pico, silero, piper",
        ),
        (["--shares", "espeak:1"], "'espeak:1' is not like espeak=0.5,flite=0.5"),
        (["--hours", "-1"], "'-1' is not"),
        (
            ["--dictionary_share", "0.5"],
            "--everyday_share 0.65, --dictionary_share 0.5, --telephone_share 0, --words_share 0 are over 1",
        ),
    ],
)
def test_wrong_options_name_the_value(
    extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--output_dir", str(tmp_path), *extra])
    assert message in capsys.readouterr().err


def test_shares_sum_to_one_and_name_used_engines_only() -> None:
    assert shares_of(["flite", "espeak"], {"espeak": 1, "flite": 0.5}) == (
        ("espeak", 2 / 3),
        ("flite", 1 / 3),
    )
    with pytest.raises(ValueError, match="kokoro, which is not among espeak"):
        shares_of(["espeak"], {"kokoro": 1.0})


def test_an_engine_without_a_default_share_needs_one() -> None:
    with pytest.raises(ValueError, match=r"no default share for piper: add --shares espeak=1,piper=1$"):
        shares_of(["espeak", "piper"], {})
    assert shares_of(["piper"], {"piper": 1}) == (("piper", 1.0),)


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ([], list(DEFAULT_SHARES)),
        (["--engines", "festival,piper"], ["festival", "piper"]),
        (["--shares", "piper=1"], list(ENGINES)),
    ],
)
def test_engines_without_a_default_share_are_left_out_where_nobody_asks_for_them(
    options: list[str], used: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def run(args: Namespace) -> dict[str, dict[str, str]]:
        asked.append(args.engines)
        return {"splits": {}}

    monkeypatch.setattr(synthesize, "available", lambda named: named or list(ENGINES))
    monkeypatch.setattr(synthesize, "open_sentences", dict)
    monkeypatch.setattr(synthesize, "synthesize", run)
    main(["--output_dir", str(tmp_path), *options])
    assert asked == [used]

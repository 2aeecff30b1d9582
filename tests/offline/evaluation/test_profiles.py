"""Ways to hear, as they are written on a command line."""

import pytest

from offline.evaluation.profiles import CHOICES, FULL, NAMED, Profile, parse, whole_frames
from service.settings import Settings


@pytest.mark.parametrize(
    ("text", "profile", "label"),
    [
        ("full", FULL, "full"),
        ("640x10", Profile(32, 500), "640ms/10s"),
        ("20x0", Profile(1, 0), "20ms/0s"),
        ("160x0.14", Profile(8, 7), "160ms/0.14s"),
        ("320x2/int8", Profile(16, 100, int8=True), "320ms/2s/int8"),
        ("480+160x10", Profile(24, 500, lookahead_frames=8), "480+160ms/10s"),
        ("fast/int8", Profile(10, 250, int8=True, lookahead_frames=6), "200+120ms/5s/int8"),
        ("naive-1280x30", Profile(64, 1500, naive=True), "naive-1280ms/30s"),
    ],
)
def test_what_a_name_says(text: str, profile: Profile, label: str) -> None:
    assert parse(text) == profile and str(profile) == label
    assert profile.streamed == (text[0] not in "n" and text != "full")
    assert profile.left_context_s == pytest.approx(profile.left_context_frames / 50)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("slow", "choices: full, fast, balanced, long, "),
        ("640", "--profile '640' is none"),
        ("640x10/int4", "--profile '640x10/int4' is none"),
        ("640x10/", "--profile '640x10/' is none"),
        ("full/int8", "--profile 'full/int8' is none"),
        ("naive-640x10/int8", "is none"),
        ("naive-full", "is none"),
        ("-640x10", "is none"),
        ("naive-480+160x10", "is none"),
        ("480+x10", "is none"),
        ("480+150x10", "the look-ahead is 150, no multiple of 20; the nearest is 160"),
        ("330x10", "--profile 330x10: the chunk is 330, no multiple of 20; the nearest is 320"),
        ("1e999x10", "is none"),
        ("0x10", "the chunk is 0, no multiple of 20; the nearest is 20"),
        ("640x0.03", "--profile 640x0.03: the context is 0.03, no multiple of 0.02; the nearest is 0.04"),
    ],
)
def test_what_is_none_is_named(text: str, named: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert named in str(caught.value)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_number_is_refused_as_a_time(value: float) -> None:
    with pytest.raises(ValueError, match=f"--left_context_s is {value:g}: give a number of s"):
        whole_frames("--left_context_s", value, 1000, 0)


def test_every_time_on_the_grid_is_as_many_frames() -> None:
    for frames in range(2000):
        assert whole_frames("x", frames / 50, 1000, 0) == frames


def test_the_services_names_stand_for_what_it_serves() -> None:
    served = {profile.name: profile for profile in Settings().profiles}
    assert served.keys() == NAMED.keys() < set(CHOICES)
    for name, theirs in served.items():
        ours = parse(name)
        times = 20 * (ours.chunk_frames or 0), ours.left_context_s, 20 * ours.lookahead_frames
        assert times == (theirs.chunk_ms, theirs.left_context_s, theirs.lookahead_ms)

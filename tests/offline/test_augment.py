"""Augmentation: the same draws give the same samples, and each effect does what its name says."""

import numpy as np
import pytest
from numpy.typing import NDArray

from offline import augment as effects
from offline.augment import augment

SECOND = 16_000


def tone(hz: float, seconds: float = 1.0) -> NDArray[np.float32]:
    return (0.1 * np.sin(2 * np.pi * hz * np.arange(int(seconds * SECOND)) / SECOND)).astype(np.float32)


def power_at(wave: NDArray[np.float32], hz: float) -> float:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    return float(spectrum[np.abs(np.fft.rfftfreq(len(wave), 1 / SECOND) - hz) < 40].sum())


@pytest.mark.parametrize("samples", [400, 5_000, 48_000])
def test_any_wave_stays_finite_float32_and_is_the_seeds(samples: int) -> None:
    clean = tone(440, 3)[:samples]
    for seed in range(40):
        wave = augment(clean, np.random.default_rng(seed), 1.5, lambda rng: tone(rng.uniform(100, 300)))
        assert wave.dtype == np.float32 and wave.ndim == 1 and np.isfinite(wave).all()
        assert np.abs(wave).max() <= 1
        assert (
            0.79 * samples - 2 <= len(wave) <= 1.44 * samples + 1.3 * SECOND
        )  # silence, and what codecs add
        again = augment(clean, np.random.default_rng(seed), 1.5, lambda rng: tone(rng.uniform(100, 300)))
        assert np.array_equal(wave, again)
    assert len(clean) == samples


def test_strength_0_changes_nothing_and_silence_stays_finite() -> None:
    clean = tone(440)
    assert np.array_equal(augment(clean, np.random.default_rng(0), 0.0), clean)
    for seed in range(20):
        assert np.isfinite(augment(np.zeros(8_000, np.float32), np.random.default_rng(seed))).all()


def test_speed_moves_pitch_and_length() -> None:
    fast = effects.speed(tone(1000), 1.1)
    assert abs(len(fast) - SECOND / 1.1) < 3
    assert power_at(fast, 1100) > 50 * power_at(fast, 1000)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_tempo_moves_length_and_not_pitch(factor: float) -> None:
    wave = effects.tempo(tone(440), factor)
    assert abs(len(wave) - SECOND / factor) <= 1
    assert power_at(wave, 440) > 100 * max(power_at(wave, 440 * factor), power_at(wave, 440 / factor))
    assert np.abs(wave).max() < 0.11  # frames meet in phase
    tract = effects.tempo(effects.speed(tone(440), factor), 1 / factor)
    assert abs(len(tract) - SECOND) <= 2
    assert power_at(tract, 440 * factor) > 100 * power_at(tract, 440)


def test_an_unchanged_tempo_changes_nothing() -> None:
    for samples in (5_000, SECOND, 10 * effects.HOP + 100):
        wave = np.random.default_rng(0).standard_normal(samples, np.float32)
        inside = slice(0, samples - effects.FRAME)  # beyond, there is only silence to go on with
        assert effects.tempo(wave, 1.0)[inside] == pytest.approx(wave[inside], abs=1e-5)


@pytest.mark.parametrize("samples", [10 * effects.HOP + rest for rest in (0, 1, 100, 200)])
def test_tempo_fades_no_end(samples: int) -> None:
    wave = np.ones(samples, np.float32)
    assert effects.tempo(np.pad(wave, (0, effects.FRAME)), 1.0)[:samples] == pytest.approx(wave, abs=1e-5)
    assert effects.tempo(wave, 1.0)[-effects.HOP :].min() > 0.99


@pytest.mark.parametrize("codec", effects.CODECS, ids=lambda codec: codec[1])
def test_a_codec_leaves_speech_and_changes_it(codec: tuple[str, str, int]) -> None:
    wave = effects.coded(tone(440), *codec)
    assert wave.dtype == np.float32 and SECOND - 2 <= len(wave) <= SECOND + 4_000
    assert 0.5 < power_at(wave[:SECOND], 440) / power_at(tone(440), 440) < 1.5
    assert np.abs(wave[:SECOND] - tone(440)[: len(wave)]).max() > 1e-3


def test_noise_has_the_ratio_asked_for() -> None:
    clean = tone(440)
    for other in (None, tone(200, 0.3)):
        noise = effects.add_noise(clean, np.random.default_rng(1), 10, other) - clean
        assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.1)


def test_a_telephone_passes_speech_and_stops_the_rest() -> None:
    for hz, passes in ((100, False), (1000, True), (6000, False)):
        kept = power_at(effects.telephone(tone(hz)), hz) / power_at(tone(hz), hz)
        assert (0.8 < kept < 1.2) if passes else kept < 0.02


def test_a_room_rings_on_after_the_sound() -> None:
    click = np.zeros(SECOND, np.float32)
    click[100] = 1
    wave = effects.reverberate(click, np.random.default_rng(0))
    assert len(wave) == SECOND and np.abs(wave[:100]).max() < 1e-6
    assert wave[100] == pytest.approx(1, abs=1e-3) and np.abs(wave[200:1000]).max() > 1e-4


def test_gain_clips_like_a_recorder() -> None:
    loud = effects.gain(tone(440), 40)
    assert loud.max() == 1 and loud.min() == -1
    assert np.allclose(effects.gain(tone(440), -20), tone(440) / 10)

"""Makes one clean recording into many: speed, tract, tempo, room, channel, codec, noise, level, silence.

Every draw comes from the Generator passed in, so the same generator state gives the same samples.
Waves are float32 [samples] mono at 16 kHz. The whole costs about 2 ms for a second of audio on one core.

>>> wave = np.zeros(16_000, np.float32)
>>> augment(wave, np.random.default_rng(1)).dtype
dtype('float32')
"""

import io
from collections.abc import Callable

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import oaconvolve

from asr.audio import SAMPLE_RATE

Wave = NDArray[np.float32]

SPEED_SHARE, TRACT_SHARE, ROOM_SHARE, CHANNEL_SHARE, NOISE_SHARE, CODEC_SHARE = 0.4, 0.5, 0.3, 0.7, 0.5, 0.1
TELEPHONE_SHARE, BABBLE_SHARE, SILENCE_SHARE = 0.3, 0.2, 0.4
SLOWEST, FASTEST = 0.7, 1.25  # paces: people who read a prompt for others speak slower than the engines do
CODECS = (
    ("OGG", "OPUS", 16_000),
    ("MP3", "MPEG_LAYER_III", 16_000),
    ("WAV", "GSM610", 8_000),
)  # and their Hz
FRAME, HOP, SEARCH = 512, 256, 96  # of `tempo`: 32, 16 and 6 ms


def augment(
    wave: Wave,
    rng: np.random.Generator,
    strength: float = 1.0,
    babble: Callable[[np.random.Generator], Wave] | None = None,
) -> Wave:
    """Returns a changed copy of wave, float32 [about 0.8 to 1.43 times the samples, plus silence].

    strength scales the chance of each effect (0: none; 1: the shares above; at most 1.5 is sensible); the level
    changes always, unless strength is 0.
    babble, if given, returns the speech of somebody else, for one kind of noise.
    """

    def chosen(chance: float) -> bool:
        return bool(rng.random() < chance * strength)

    if chosen(TRACT_SHARE):
        pace = np.exp(rng.uniform(np.log(SLOWEST), np.log(FASTEST)))
        wave = tempo(speed(wave, tract := rng.uniform(0.8, 1.25)), pace / tract)
    elif chosen(SPEED_SHARE):
        wave = speed(wave, rng.uniform(0.85, 1.15))
    if chosen(SILENCE_SHARE):
        wave = silence(wave, rng.uniform(0, 0.5), rng.uniform(0, 0.5))
    if chosen(ROOM_SHARE):
        wave = reverberate(wave, rng)
    if chosen(NOISE_SHARE):
        other = babble(rng) if babble is not None and chosen(BABBLE_SHARE) else None
        wave = add_noise(wave, rng, snr_db=rng.uniform(5, 30), babble=other)
    if chosen(CHANNEL_SHARE):
        wave = telephone(wave) if chosen(TELEPHONE_SHARE) else equalise(wave, rng)
    if chosen(CODEC_SHARE):
        wave = coded(wave, *CODECS[rng.integers(len(CODECS))])
    if strength > 0:
        wave = gain(wave, rng.uniform(-20, 6))
    return np.ascontiguousarray(wave, np.float32)


def speed(wave: Wave, factor: float) -> Wave:
    """Plays wave factor times as fast, pitch and formants along with it."""
    return soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE, quality="LQ").astype(np.float32)


def tempo(wave: Wave, factor: float) -> Wave:
    """Plays wave factor times as fast at the same pitch. WSOLA (Verhelst and Roelands 1993).

    Frames that overlap by half are taken near where they are due, each where it goes on best from the one before.
    After `speed` with the inverse factor it leaves the length, and a speaker with another pitch and vocal tract.
    """
    window = np.hanning(FRAME + 1)[:FRAME].astype(np.float32)
    length = round(len(wave) / factor)
    hops = -(-length // HOP) + 1
    # The first frame begins half a frame early, so that every sample lies under two windows, which add up to 1.
    known = np.pad(wave, (SEARCH + HOP, FRAME + HOP + SEARCH + int(HOP * factor)))
    out = np.zeros((hops + 1) * HOP, np.float32)
    at = SEARCH
    for hop in range(hops):
        if hop:
            first = min(round(hop * HOP * factor), len(known) - FRAME - HOP - 2 * SEARCH)
            follows = known[at + HOP : at + HOP + FRAME]
            at = first + int(np.argmax(np.correlate(known[first : first + FRAME + 2 * SEARCH], follows)))
        out[hop * HOP : hop * HOP + FRAME] += window * known[at : at + FRAME]
    return out[HOP : HOP + length]


def silence(wave: Wave, before_s: float, after_s: float) -> Wave:
    """Adds digital silence on both sides."""
    return np.pad(wave, (int(before_s * SAMPLE_RATE), int(after_s * SAMPLE_RATE)))


def gain(wave: Wave, gain_db: float) -> Wave:
    """Scales wave and clips it to [-1, 1], as a recorder does."""
    return np.clip(wave * np.float32(10 ** (gain_db / 20)), -1, 1)


def reverberate(wave: Wave, rng: np.random.Generator) -> Wave:
    """Convolves with a made-up room: direct sound, then noise that decays by 60 dB in 0.1 to 0.6 s."""
    decay_s = rng.uniform(0.1, 0.6)
    samples = int(decay_s * SAMPLE_RATE)
    tail = rng.standard_normal(samples, np.float32)
    tail *= np.exp(np.linspace(0, -np.log(1000), samples, dtype=np.float32))
    direct_to_reverberant_db = rng.uniform(-3, 12)
    tail *= np.float32(10 ** (-direct_to_reverberant_db / 20)) / np.linalg.norm(tail)
    tail[0] = 1
    return oaconvolve(wave, tail)[: len(wave)].astype(np.float32)


def add_noise(wave: Wave, rng: np.random.Generator, snr_db: float, babble: Wave | None = None) -> Wave:
    """Adds noise whose power falls as 1/f^a, a in 0 (white) to 2 (brown), or someone's speech, at snr_db."""
    noise = _coloured(len(wave), rng) if babble is None else np.resize(babble, len(wave))
    level = _rms(wave) * 10 ** (-snr_db / 20) / max(_rms(noise), 1e-8)
    return wave + noise * np.float32(level)


def telephone(wave: Wave) -> Wave:
    """Passes 300 to 3400 Hz and quantises to 8-bit mu-law (G.711's curve), peak at full scale."""
    narrow = _shape(wave, lambda hz: _low_pass(hz, 3400) * _high_pass(hz, 300))
    peak = max(float(np.abs(narrow).max(initial=0)), 1e-6)
    compressed = np.sign(narrow) * np.log1p(255 * np.abs(narrow) / peak) / np.log(256)
    levels = np.round(compressed * 127) / 127
    return (np.sign(levels) * np.expm1(np.abs(levels) * np.log(256)) / 255 * peak).astype(np.float32)


def coded(wave: Wave, container: str, codec: str, rate: int) -> Wave:
    """What is left of wave [about as many samples] when it was stored so, at the codec's own bit rate."""
    file = io.BytesIO()
    sent = soxr.resample(wave, SAMPLE_RATE, rate, quality="LQ") if rate != SAMPLE_RATE else wave
    soundfile.write(file, np.clip(sent, -1, 1), rate, format=container, subtype=codec)
    file.seek(0)
    heard = soundfile.read(file, dtype="float32")[0]
    return soxr.resample(heard, rate, SAMPLE_RATE, quality="LQ") if rate != SAMPLE_RATE else heard


def equalise(wave: Wave, rng: np.random.Generator) -> Wave:
    """Colours the spectrum as a microphone does: up to 8 dB in six bands, a slope, and maybe a low-pass at 3 to 7 kHz.

    The slope is up to 4 dB an octave: at 7 kHz people were measured 7 to 20 dB above what the engines say.
    """
    centres_hz = np.array([60, 250, 700, 1800, 4000, 8000])
    slope_db = rng.uniform(-4, 4) * np.log2(np.maximum(centres_hz, 250) / 1000)
    gains_db = rng.uniform(-8, 8, len(centres_hz)) + slope_db
    cutoff_hz = rng.uniform(3000, 7000) if rng.random() < 0.3 else 20_000

    def response(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        bands = np.interp(np.log(hz + 1), np.log(centres_hz + 1), gains_db)
        return 10 ** (bands / 20) * _low_pass(hz, cutoff_hz)

    return _shape(wave, response)


def _low_pass(hz: NDArray[np.float64], cutoff_hz: float) -> NDArray[np.float64]:
    return 1 / np.sqrt(1 + (hz / cutoff_hz) ** 16)


def _high_pass(hz: NDArray[np.float64], cutoff_hz: float) -> NDArray[np.float64]:
    return 1 / np.sqrt(1 + (cutoff_hz / np.maximum(hz, 1)) ** 8)


def _shape(wave: Wave, response: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Wave:
    """Multiplies the spectrum of wave by response(frequencies in Hz)."""
    size = next_fast_len(len(wave) + 256, real=True)
    gains = response(rfftfreq(size, 1 / SAMPLE_RATE)).astype(np.float32)
    return irfft(rfft(wave, size) * gains, size)[: len(wave)].astype(np.float32)


def _coloured(samples: int, rng: np.random.Generator) -> Wave:
    size = next_fast_len(max(samples, 2), real=True)
    slope = rng.uniform(0, 1)
    hz = np.maximum(rfftfreq(size, 1 / SAMPLE_RATE), 20).astype(np.float32)
    spectrum = rng.standard_normal((len(hz), 2), np.float32).view(np.complex64)[:, 0]
    return irfft(spectrum * hz**-slope, size)[:samples].astype(np.float32)


def _rms(wave: Wave) -> float:
    return float(np.sqrt(np.mean(wave * wave))) if len(wave) else 0.0

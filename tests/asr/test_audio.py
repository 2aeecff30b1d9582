import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr import audio
from asr.audio import SAMPLE_RATE, AudioError, read

SECONDS = 1.5


def chirp(rate: int, seconds: float = SECONDS, channels: int = 1) -> np.ndarray:
    """float64 [samples] or [samples, channels]: a tone that rises and grows, so that shifts and cuts would show."""
    time = np.arange(round(rate * seconds)) / rate
    wave = (0.1 + 0.2 * time / seconds) * np.sin(2 * np.pi * (300 + 400 * time) * time)
    return wave if channels == 1 else np.repeat(wave[:, None], channels, axis=1)


def encoded(data: np.ndarray, rate: int, format: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, data, rate, format=format, subtype=subtype)
    return file.getvalue()


def muxed(path: Path, codec: str, data: np.ndarray, rate: int) -> Path:
    """Write mono `data` with PyAV in the container that the path's suffix names."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, len(data), 960):
            block = np.ascontiguousarray(data[None, start : start + 960], dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def code_of(source: object, **limits: float) -> str:
    with pytest.raises(AudioError) as caught:
        read(source, **limits)  # type: ignore[arg-type]
    return caught.value.code


def likeness(wave: np.ndarray) -> float:
    """Correlation with the chirp, wherever a codec's delay of up to 0.1 s has put it; 1 is the same shape."""
    wanted = chirp(SAMPLE_RATE)[1600:-1600]
    assert (wave.dtype, wave.ndim) == (np.float32, 1)
    assert len(wave) == pytest.approx(SECONDS * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
    start = int(np.correlate(wave, wanted, mode="valid").argmax())
    found = wave[start : start + len(wanted)]
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(wanted), rel=0.1)
    return float(np.corrcoef(found, wanted)[0, 1])


@pytest.mark.parametrize(
    ("format", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 44_100),
        ("WAV", "PCM_U8", 8_000),
        ("WAV", "PCM_24", 48_000),
        ("WAV", "FLOAT", 16_000),
        ("WAV", "ULAW", 8_000),
        ("FLAC", "PCM_16", 22_050),
        ("OGG", "VORBIS", 44_100),
        ("OGG", "OPUS", 48_000),
        ("MP3", None, 24_000),
        ("AIFF", "PCM_16", 192_000),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_reads_what_soundfile_reads(format: str, subtype: str | None, rate: int, channels: int) -> None:
    assert likeness(read(encoded(chirp(rate, channels=channels), rate, format, subtype))) > 0.98


@pytest.mark.parametrize(
    ("suffix", "codec"), [("m4a", "aac"), ("mp4", "aac"), ("webm", "libopus"), ("mkv", "libopus")]
)
def test_reads_other_containers_through_pyav(tmp_path: Path, suffix: str, codec: str) -> None:
    path = muxed(tmp_path / f"talk.{suffix}", codec, chirp(48_000), 48_000)
    assert likeness(read(path)) > 0.98


def test_sixteen_kilohertz_passes_unchanged() -> None:
    wave = chirp(SAMPLE_RATE).astype(np.float32)
    np.testing.assert_array_equal(read(encoded(wave, SAMPLE_RATE, "WAV", "FLOAT")), wave)


def test_blocks_leave_no_seams() -> None:
    wave = chirp(44_100, seconds=3.0).astype(np.float32)
    assert len(wave) > 3 * audio.BLOCK_FRAMES
    whole = soxr.resample(wave, 44_100, SAMPLE_RATE)
    np.testing.assert_allclose(read(encoded(wave, 44_100, "WAV", "FLOAT")), whole, atol=1e-5)


def test_channels_are_averaged() -> None:
    one = chirp(SAMPLE_RATE)
    three = np.stack([one, 0.5 * one, 0 * one], axis=1)
    np.testing.assert_allclose(read(encoded(three, SAMPLE_RATE, "WAV", "FLOAT")), 0.5 * one, atol=1e-6)


@pytest.mark.parametrize("seconds", [0.2, 1 / SAMPLE_RATE])
def test_short_clips_keep_their_length(seconds: float) -> None:
    assert len(read(encoded(chirp(SAMPLE_RATE, seconds), SAMPLE_RATE, "FLAC"))) == round(
        seconds * SAMPLE_RATE
    )


def test_sources_of_every_kind(tmp_path: Path) -> None:
    raw = encoded(chirp(8_000), 8_000, "FLAC")
    path = tmp_path / "a.flac"
    path.write_bytes(raw)
    wanted = read(raw)
    pipe_out, pipe_in = os.pipe()
    os.write(pipe_in, raw)
    os.close(pipe_in)
    with path.open("rb") as file, os.fdopen(pipe_out, "rb") as pipe:
        for source in (path, str(path), file, io.BytesIO(raw), pipe):
            np.testing.assert_array_equal(read(source), wanted)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg: make tools")
@pytest.mark.parametrize("format", ["wav", "flac", "mp3"])
def test_files_written_to_a_pipe_are_read_to_their_end(tmp_path: Path, format: str) -> None:
    """Their headers give no length, or a wrong one; for variable-rate mp3, libsndfile would stop early."""
    path = tmp_path / "a.wav"
    loud_then_quiet = np.concatenate([np.random.default_rng(0).normal(0, 0.2, 44_100), np.zeros(176_400)])
    soundfile.write(path, loud_then_quiet, 44_100)
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(path),
        *(["-q:a", "5"] * (format == "mp3")),
        "-f",
        format,
        "-",
    ]
    piped = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout
    assert len(read(piped)) == pytest.approx(5 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


def test_joined_mp3_files_are_read_to_their_end() -> None:
    one = encoded(chirp(16_000), 16_000, "MP3")
    assert len(read(one)) == pytest.approx(SECONDS * SAMPLE_RATE, abs=1)
    assert len(read(one + one)) == pytest.approx(2 * SECONDS * SAMPLE_RATE, abs=0.3 * SAMPLE_RATE)


# What cannot be read


@pytest.mark.parametrize(
    "garbage", [b"hello", b"\0" * 1000, b"RIFF", b"fLaC" + b"\0" * 60, b"\xff\xfb\x90\0" * 99, b"ID3"]
)
def test_garbage_is_not_audio(garbage: bytes) -> None:
    assert code_of(garbage) == "not_audio"


@pytest.mark.parametrize("magic", [b"\0\0\0\x18ftypM4A ", b"\x1a\x45\xdf\xa3"])
def test_garbage_behind_a_known_container_is_not_audio(magic: bytes) -> None:
    assert code_of(magic + b"garbage" * 50) == "not_audio"


MAGICS = [
    b"",
    b"RIFF\xff\xff\xff\xffWAVEfmt ",
    b"fLaC\0\0\0\x22",
    b"OggS\0\x02",
    b"ID3\x03\0\0\0\0\0\x05",
    b"\xff\xfb\x90\x64",
]


@settings(max_examples=60, deadline=None)
@given(
    magic=st.sampled_from([*MAGICS, b"\0\0\0\x18ftypmp42", b"\x1a\x45\xdf\xa3\x01"]),
    body=st.binary(max_size=2000),
)
@example(magic=b"ID3\x03\0\0\x7f\x7f\x7f\x7f", body=b"")
def test_any_bytes_give_samples_or_an_audio_error(magic: bytes, body: bytes) -> None:
    try:
        wave = read(magic + body, max_duration_s=60)
    except AudioError as error:
        assert "0x" not in str(error)
        assert "Error" not in str(error)
    else:
        assert np.isfinite(wave).all() and 0 < len(wave) <= 60 * SAMPLE_RATE


def test_a_file_cut_in_the_middle_says_where() -> None:
    raw = encoded(chirp(SAMPLE_RATE, 20.0), SAMPLE_RATE, "FLAC")
    with pytest.raises(AudioError, match=r"damaged or cut off after \d+\.\d s"):
        read(raw[: len(raw) // 2])


def test_empty_files(tmp_path: Path) -> None:
    assert code_of(b"") == "empty"
    assert code_of(io.BytesIO()) == "empty"
    assert code_of(encoded(np.zeros(0), SAMPLE_RATE, "WAV")) == "empty"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_samples_that_are_no_sound(value: float) -> None:
    wave = chirp(SAMPLE_RATE).astype(np.float32)
    wave[9_000] = value
    assert code_of(encoded(wave, SAMPLE_RATE, "WAV", "FLOAT")) == "not_audio"


@pytest.mark.parametrize(("rate", "channels"), [(4_000, 1), (384_000, 1), (16_000, 9)])
def test_rates_and_channels_out_of_range(rate: int, channels: int) -> None:
    assert code_of(encoded(chirp(rate, 0.1, channels), rate, "WAV")) == "unsupported"


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.wav"
    path.write_text("not sound")
    with pytest.raises(AudioError, match=r"notes\.wav: not a sound file in a known format"):
        read(path)
    with path.open("rb") as file, pytest.raises(AudioError, match=r"^notes\.wav: not a sound file"):
        read(file)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav"):
        read(tmp_path / "nowhere.wav")


def test_errors_survive_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(AudioError("empty", "the file is empty")))
    assert (error.code, str(error)) == ("empty", "the file is empty")


# Limits


def test_the_duration_limit_is_exact() -> None:
    raw = encoded(chirp(SAMPLE_RATE, 2.0), SAMPLE_RATE, "FLAC")
    assert len(read(raw, max_duration_s=2.0)) == 2 * SAMPLE_RATE
    assert code_of(raw, max_duration_s=1.999) == "too_long"


def test_a_limit_stops_the_decoding_and_not_only_the_answer() -> None:
    """Two hours of silence in some hundred kilobytes: only the limit's worth is ever taken from the file."""
    bomb = CountingFile(encoded(np.zeros(7_200 * 8_000, np.int16), 8_000, "FLAC"))
    assert code_of(bomb, max_duration_s=10) == "too_long"
    assert bomb.bytes_read < len(bomb.getvalue()) / 4


def test_the_limit_counts_samples_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """High rates with many channels have less time: as many samples as common files, or a minute."""
    monkeypatch.setattr(audio, "FULL_RATE_S", 0.1)
    for rate, channels, seconds in ((48_000, 2, 2.0), (192_000, 4, 0.25), (192_000, 8, 0.125)):
        zeros = np.zeros((round(rate * seconds), channels), np.int16)
        assert len(read(encoded(zeros, rate, "FLAC"), max_duration_s=2.0)) == seconds * SAMPLE_RATE
        longer = encoded(np.concatenate([zeros, zeros[:1000]]), rate, "FLAC")
        assert code_of(longer, max_duration_s=2.0) == "too_long"
    with pytest.raises(
        AudioError, match=r"limit of 0\.125 s for 1536000 samples a second .*, of 2 s for common"
    ):
        read(longer, max_duration_s=2.0)
    monkeypatch.setattr(audio, "FULL_RATE_S", 0.2)
    assert len(read(longer, max_duration_s=2.0)) > 0.125 * SAMPLE_RATE


class CountingFile(io.BytesIO):
    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data

    def readinto(self, buffer: object, /) -> int:
        count = super().readinto(buffer)  # type: ignore[arg-type]
        self.bytes_read += count
        return count


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    raw = bytearray(encoded(chirp(SAMPLE_RATE), SAMPLE_RATE, "WAV"))
    raw[40:44] = b"\xff\xff\xff\xff"
    assert len(read(bytes(raw), max_duration_s=2.0)) == SECONDS * SAMPLE_RATE


def test_other_containers_are_limited_too(tmp_path: Path) -> None:
    path = muxed(tmp_path / "a.m4a", "aac", chirp(48_000, 4.0), 48_000)
    assert code_of(path, max_duration_s=2.0) == "too_long"


def test_without_pyav_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"mla-asr\[av\]") as caught:
        read(b"\0\0\0\x18ftypM4A " + b"\0" * 100)
    assert caught.value.code == "unsupported"

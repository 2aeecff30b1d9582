import io
import os
import pickle
import shutil
import struct
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

from asr import audio, framing
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


def muxed(path: Path, codec: str, data: np.ndarray, rate: int, **options: str) -> Path:
    """Write mono `data` with PyAV in the container that the path's suffix names."""
    with av.open(str(path), "w", options=options) as container:
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


@pytest.mark.parametrize("name", [b"free", b"skip", b"wide", b"pnot"])
def test_an_mp4_may_begin_with_a_box_that_says_nothing(tmp_path: Path, name: bytes) -> None:
    # Fragments tell their places from their own start, so that a box can be put before them.
    options = {"movflags": "empty_moov+default_base_moof+frag_keyframe"}
    path = muxed(tmp_path / "talk.m4a", "aac", chirp(48_000), 48_000, **options)
    raw = path.read_bytes()
    assert raw[4:8] == b"ftyp"
    assert likeness(read(b"\0\0\0\x14" + name + bytes(12) + raw)) > 0.98


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


def tag_of_128_bytes() -> bytes:
    return b"TAG" + b"Talk".ljust(125, b"\0")


def ape_tag(bytes_of_picture: int) -> bytes:
    """An APEv2 tag with a picture, which is noise."""
    item = struct.pack("<II", bytes_of_picture, 2) + b"Cover Art (Front)\0"
    item += np.random.default_rng(0).bytes(bytes_of_picture)
    head, foot = (
        b"APETAGEX" + struct.pack("<IIII", 2000, len(item) + 32, 1, flags) + bytes(8)
        for flags in (0xA0000000, 0x80000000)
    )
    return head + item + foot


def lyrics_tag() -> bytes:
    lyrics = b"LYRICSBEGININD0000200LYR02000" + b"la " * 666 + b"la"
    return lyrics + f"{len(lyrics):06d}LYRICS200".encode() + tag_of_128_bytes()


TAILS = {
    "ID3v1": tag_of_128_bytes(),
    "APEv2": ape_tag(500),
    "APEv2 with a picture": ape_tag(300_000),
    "Lyrics3": lyrics_tag(),
    "zeros": bytes(4096),
    "a byte": b"\0",
    "a start of a frame": b"\xff\xfb\x90\x64" + bytes(2000),
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_what_stands_behind_the_last_mp3_frame_changes_nothing(tail: bytes, rate: int) -> None:
    raw = encoded(chirp(rate), rate, "MP3")
    assert len(raw) < 15_000
    wanted = read(raw)
    assert len(wanted) == pytest.approx(SECONDS * SAMPLE_RATE, abs=1)
    onset_shift = np.correlate(wanted, chirp(SAMPLE_RATE)[1600:-1600], mode="valid").argmax() - 1600
    assert abs(onset_shift) <= 2  # the encoder's delay is cut
    np.testing.assert_array_equal(read(raw + tail), wanted)
    bare = without_xing(raw)
    np.testing.assert_array_equal(read(bare + tail), read(bare))
    assert len(read(bare)) > len(wanted)


def without_xing(raw: bytes) -> bytes:
    bare = raw.replace(b"Xing", b"\0\0\0\0", 1).replace(b"Info", b"\0\0\0\0", 1)
    assert bare != raw
    return bare


ID3V2_TAG = b"ID3\x03\0\0\0\0\x20\0" + bytes(0x1000)


@pytest.mark.parametrize("between", [b"", tag_of_128_bytes(), ID3V2_TAG, tag_of_128_bytes() + ID3V2_TAG])
def test_joined_mp3_files_are_read_to_their_end(between: bytes) -> None:
    one = encoded(chirp(16_000), 16_000, "MP3")
    assert len(read(one)) == pytest.approx(SECONDS * SAMPLE_RATE, abs=1)
    for tail in (b"", bytes(4096)):
        joined = read(one + between + one + tail)
        assert len(joined) == pytest.approx(2 * SECONDS * SAMPLE_RATE, abs=0.3 * SAMPLE_RATE)


def test_a_short_mp3_joined_to_a_long_one_is_read() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * 16_000)
    long, short = encoded(noise, 16_000, "MP3"), encoded(chirp(16_000, 0.3), 16_000, "MP3")
    assert len(short) < len(long) / 100
    assert len(read(long + short)) > (60.0 + 0.3) * SAMPLE_RATE


def test_the_end_of_mp3_frames_is_found_wherever_scans_are_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encoded(chirp(16_000, 4.0), 16_000, "MP3")
    for scan_bytes in range(3000, 3300, 7):
        monkeypatch.setattr(framing, "SCAN_BYTES", scan_bytes)
        assert framing._frames_end(io.BytesIO(raw + bytes(10_000)), 0) == len(raw)
        assert framing._frames_end(io.BytesIO(raw + bytes(10_000)), len(raw)) is None


@pytest.mark.parametrize(("subtype", "rate"), [("VORBIS", 44_100), ("OPUS", 48_000)])
def test_chained_ogg_files_are_read_to_their_end(subtype: str, rate: int) -> None:
    one, two = (encoded(chirp(rate, seconds), rate, "OGG", subtype) for seconds in (SECONDS, 0.7))
    waves = [read(one), read(two), read(one)]
    for file in (one + two + one, one + two + bytes(5000) + one, one + two + one + bytes(5000)):
        joined = read(file)
        assert len(joined) == round(3.7 * SAMPLE_RATE)
        at = 0
        for wave in waves:  # but for the resampler's edges, which are each file's own
            inner = slice(at + 200, at + len(wave) - 200)
            np.testing.assert_allclose(joined[inner], wave[200:-200], atol=1e-3)
            at += len(wave)
    assert code_of(one + two, max_duration_s=2.0) == "too_long"


def test_a_chained_ogg_file_is_read_on_where_a_link_was_cut() -> None:
    one = encoded(chirp(44_100, 10.0), 44_100, "OGG", "VORBIS")
    half = one[: len(one) // 2]
    assert len(read(half + one)) == pytest.approx(len(read(half)) + len(read(one)), abs=1)


def test_a_chained_ogg_file_is_read_link_by_link() -> None:
    """Of what the limit does not let pass, only the places of the pages are read."""
    one = encoded(np.random.default_rng(0).normal(0, 0.1, 480_000), 48_000, "OGG", "OPUS")
    chain = CountingFile(one * 10)
    assert code_of(chain, max_duration_s=5) == "too_long"
    assert chain.bytes_read < 2 * len(one)


RIFF_SIZES = [0, 8, 36, 0xFFFFFFFF]


@pytest.mark.parametrize("riff_bytes", RIFF_SIZES)
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "ULAW"])
def test_a_wav_whose_writer_never_gave_the_length_is_read(riff_bytes: int, subtype: str) -> None:
    wave = np.concatenate([np.zeros(1000), chirp(SAMPLE_RATE)])
    raw = bytearray(encoded(wave, SAMPLE_RATE, "WAV", subtype))
    wanted = read(bytes(raw))
    at = raw.index(b"data") + 4
    raw[4:8], raw[at : at + 4] = struct.pack("<I", riff_bytes), bytes(4)
    np.testing.assert_array_equal(read(bytes(raw)), wanted)


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


def test_an_mp3_damaged_or_cut_off_is_refused() -> None:
    raw = encoded(chirp(16_000, 10.0), 16_000, "MP3")
    half = len(raw) // 2 + 30
    cut, zeros, hole = raw[:half], bytes(len(raw) - half), bytes(3000)
    for damaged in (cut + zeros, cut + hole + raw[half + 3000 :], without_xing(cut)):
        with pytest.raises(AudioError, match=r"damaged or cut off after \d+\.\d s"):
            read(damaged)


def test_a_chained_ogg_file_cut_in_a_header_is_refused() -> None:
    one = encoded(chirp(44_100), 44_100, "OGG", "VORBIS")
    with pytest.raises(AudioError, match=r"damaged or cut off after 1\.5 s"):
        read(one + one[:1000])


def test_empty_files(tmp_path: Path) -> None:
    assert code_of(b"") == "empty"
    assert code_of(io.BytesIO()) == "empty"
    wav = encoded(np.zeros(0), SAMPLE_RATE, "WAV")
    assert code_of(wav) == "empty"
    assert code_of(wav + b"LIST\x05\0\0\0INFO\0\0" + b"cue \x04\0\0\0\0\0\0\0") == "empty"


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

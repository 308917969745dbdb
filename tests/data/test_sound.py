from __future__ import annotations

import math
import struct
import sys
import wave
from pathlib import Path

import pytest
import torch
from tests.tiny import write_sound

from eckart.data.items import ItemError
from eckart.data.sound import read_sound, resample


def write(path: Path, width: int, numbers: list[int], channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(b"".join(n.to_bytes(width, "little", signed=width > 1) for n in numbers))
    return path


@pytest.mark.parametrize(("width", "numbers"), [(1, [128, 192, 0]), *((w, [0, 1 << (8 * w - 2)]) for w in (2, 3, 4))])
def test_whole_numbers_of_all_widths(width: int, numbers: list[int], tmp_path: Path) -> None:
    sound = read_sound(write(tmp_path / "a.wav", width, numbers), 8000, "a")
    assert sound.dtype is torch.float32
    assert sound.tolist() == [0, 0.5, -1][: len(numbers)]


def test_negative_numbers_and_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", 2, [-32768, 0, 16384, 16384], channels=2)
    assert read_sound(path, 8000, "a").tolist() == [-0.5, 0.5]
    assert read_sound(path.read_bytes(), 8000, "a").tolist() == [-0.5, 0.5]


@pytest.mark.parametrize(("before", "after"), [(44100, 16000), (8000, 16000), (22050, 16000)])
def test_a_tone_stays_itself_at_another_rate(before: int, after: int) -> None:
    times = torch.arange(before // 2) / before
    found = resample(torch.sin(2 * math.pi * 440 * times), before, after)
    assert len(found) == math.ceil(len(times) * after / before)
    expected = torch.sin(2 * math.pi * 440 * torch.arange(len(found)) / after)
    middle = slice(200, -200)
    assert (found - expected)[middle].abs().max() < 0.01


def test_what_the_new_rate_cannot_hold_is_gone() -> None:
    high = torch.sin(2 * math.pi * 12000 * torch.arange(44100) / 44100)
    assert resample(high, 44100, 16000)[200:-200].abs().max() < 0.02


def test_a_sound_of_another_rate_is_resampled(tmp_path: Path) -> None:
    assert len(read_sound(write_sound(tmp_path / "a.wav", rate=22050, seconds=1), 16000, "a")) == 16000


def test_what_is_no_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF no sound")
    with pytest.raises(ItemError, match=r"^item 3 is no WAV file .*eckart\[sound\]"):
        read_sound(path, 16000, "item 3")
    # Of fractions, which Python's own reader does not take.
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 40, b"WAVE", b"fmt ", 16, 3, 1, 8000, 32000, 4, 32, b"data", 4)
    with pytest.raises(ItemError, match=r"no WAV file of whole numbers.*eckart\[sound\]"):
        read_sound(header + b"\0\0\0\0", 16000, "a")
    with pytest.raises(ItemError, match="a is a sound of no length"):
        read_sound(write(tmp_path / "b.wav", 2, []), 16000, "a")
    with pytest.raises(ItemError, match="there is no file"):
        read_sound(tmp_path / "nowhere.wav", 16000, "a")

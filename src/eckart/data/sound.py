"""Sounds from files or bytes, as processors take them: one channel, at the rate that the model hears."""

from __future__ import annotations

import io
import math
import wave
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from eckart.data.items import ItemError

ROLLOFF = 0.99  # of the lower rate's highest frequency is kept
ZEROS = 6  # of the kernel on either side


def read_sound(source: Path | bytes, rate: int, where: str) -> Tensor:
    """Return a sound, (time,) float32 between -1 and 1.

    WAV files of whole numbers are read by Python itself, anything else by soundfile, if it is installed.

    Args:
        source: its file, or what is in one.
        rate: samples a second that the model hears; a sound of another rate is resampled.
        where: it is from, for messages.

    Raises:
        ItemError: it is no sound, is damaged or empty, or needs what is not installed.
    """
    if isinstance(source, Path) and not source.is_file():
        raise ItemError(f"{where}: there is no file {source}.")
    try:
        sound, own = _read_wave(source)
    except (wave.Error, EOFError) as error:
        sound, own = _read_other(source, where, error)
    if not sound.numel():
        raise ItemError(f"{where} is a sound of no length.")
    return sound if own == rate else resample(sound, own, rate)


def resample(sound: Tensor, before: int, after: int) -> Tensor:
    """Return a sound at another rate, by a windowed sinc: frequencies that the new rate lacks are left out.

    Args:
        sound: (time,) float32.
        before: samples a second that it has.
        after: samples a second that it shall have.

    Returns:
        (time * after / before, rounded up) float32.
    """
    divisor = math.gcd(before, after)
    old, new = before // divisor, after // divisor
    highest = min(old, new) * ROLLOFF
    width = math.ceil(ZEROS * old / highest)
    # For each of `new` places between `old` samples, the weights of the samples around them.
    steps = torch.arange(-width, width + old, dtype=torch.float64) / old
    places = torch.arange(new, dtype=torch.float64) / new
    times = ((steps[None] - places[:, None]) * highest).clamp(-ZEROS, ZEROS)
    kernel = torch.sinc(times) * (times * math.pi / ZEROS / 2).cos().square() * highest / old
    padded = functional.pad(sound[None, None], (width, width + old))
    found = functional.conv1d(padded, kernel[:, None].to(sound.dtype), stride=old)
    return found[0].T.reshape(-1)[: math.ceil(len(sound) * new / old)]


def _read_wave(source: Path | bytes) -> tuple[Tensor, int]:
    with wave.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "rb") as file:
        width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
        frames = bytearray(file.readframes(file.getnframes()))
    if not frames or rate < 1:
        return torch.zeros(0), max(rate, 1)
    frames = frames[: len(frames) - len(frames) % (width * channels)]  # of a file that ends too early
    if width == 1:  # the only width without a sign
        numbers = torch.frombuffer(frames, dtype=torch.uint8).float() / 128 - 1
    else:
        # Little-endian numbers, of which some have 3 bytes.
        columns = torch.frombuffer(frames, dtype=torch.uint8).reshape(-1, width).to(torch.int64)
        whole = (columns << (8 * torch.arange(width))).sum(dim=1)
        half = 1 << (8 * width - 1)
        numbers = (torch.where(whole >= half, whole - 2 * half, whole).double() / half).float()
    return numbers.reshape(-1, channels).mean(dim=1), rate


def _read_other(source: Path | bytes, where: str, reason: Exception) -> tuple[Tensor, int]:
    try:
        import soundfile
    except ImportError as error:
        raise ItemError(
            f"{where} is no WAV file of whole numbers ({reason or 'it ends too early'}). Other sounds need an extra: "
            "pip install 'eckart[sound]'."
        ) from error
    try:
        data, rate = soundfile.read(io.BytesIO(source) if isinstance(source, bytes) else str(source), dtype="float32")
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise ItemError(f"{where} cannot be read as a sound: {error}") from error
    sound = torch.from_numpy(data)
    return (sound.mean(dim=1) if sound.ndim > 1 else sound), int(rate)

"""Images from files or bytes, as processors take them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from eckart.data.items import ItemError
from eckart.errors import CalibrationError

if TYPE_CHECKING:
    from PIL.Image import Image


def read_image(source: Path | bytes, where: str, *, channels: int = 3) -> Image:
    """Return an image, upright, in colour or in shades of grey.

    Args:
        source: its file, or what is in one.
        where: it is from, for messages.
        channels: 3 for colour, 1 for grey.

    Raises:
        ItemError: it is no image, is damaged, or larger than any honest one; says which.
        CalibrationError: what reads images is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise CalibrationError("Reading images needs an extra: pip install 'eckart[images]'.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                image.load()
                # Cameras store how they were held; palettes and transparency mean nothing to models.
                return ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except FileNotFoundError as error:
        raise ItemError(f"{where}: there is no file {source!s}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ItemError(f"{where} is larger than images are: {error}") from error
    except Exception as error:  # each format fails in its own way
        raise ItemError(f"{where} cannot be read as an image: {error}.") from error

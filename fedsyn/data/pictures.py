"""Pictures in files: decoding PNG, JPEG and whatever else Pillow reads, and resizing."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedsyn.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

GREY_MODES = ("1", "L", "I", "I;16", "F")


def decode(sources: Sequence[Path | bytes], side: int) -> np.ndarray:
    """Decode picture files and resize them to a common square.

    Parameters
    ----------
    sources : paths, or the files' bytes.
    side : height and width in pixels of the result; proportions are not kept.

    Returns
    -------
    uint8 [N, side, side] where all pictures are grey, else [N, side, side, 3]; transparent
    pixels are laid on white.

    Raises
    ------
    DataError
        If a picture is missing or cannot be decoded.
    """
    pictures = [_resized(_opened(source, row), side) for row, source in enumerate(sources)]
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [_with_channels(picture, 3) for picture in pictures]
    return np.stack(pictures) if pictures else np.empty((0, side, side), dtype=np.uint8)


def matching(pixels: np.ndarray, height: int, width: int, channels: int) -> np.ndarray:
    """Pictures [N, H, W] or [N, H, W, 3] in the size and channels (1 or 3) that are wanted."""
    from PIL import Image

    if pixels.shape[1:3] != (height, width):
        resize = Image.Resampling.BILINEAR
        pixels = np.stack(
            [np.asarray(Image.fromarray(p).resize((width, height), resize)) for p in pixels]
        )
    return _with_channels(pixels, channels, leading=1)


def _with_channels(pixels: np.ndarray, channels: int, leading: int = 0) -> np.ndarray:
    coloured = pixels.ndim == leading + 3
    if channels == 3 and not coloured:
        return np.repeat(pixels[..., None], 3, axis=-1)
    if channels == 1 and coloured:
        weights = np.array([0.299, 0.587, 0.114])
        grey: np.ndarray = np.rint(pixels @ weights).astype(np.uint8)
        return grey
    return pixels


def _opened(source: Path | bytes, row: int) -> "Image.Image":
    from PIL import Image

    what = repr(str(source)) if isinstance(source, Path) else f"of row {row}"
    try:
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        picture.load()
    except FileNotFoundError:
        raise DataError(f"picture {what} (row {row}) does not exist") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"picture {what} (row {row}) cannot be decoded: {error}") from None
    return picture


def _resized(picture: "Image.Image", side: int) -> np.ndarray:
    from PIL import Image

    if picture.mode in GREY_MODES:
        plain = picture.convert("L")
    else:
        layered = picture.convert("RGBA")
        plain = Image.new("RGB", layered.size, (255, 255, 255))
        plain.paste(layered, mask=layered.getchannel("A"))
    return np.asarray(plain.resize((side, side), Image.Resampling.BILINEAR))

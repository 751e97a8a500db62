"""What could identify the class of a picture without its anatomy: measured during conversion, for the audit.

A row holds what the file said (`decode.Facts`), what the frame of the stored picture says (borders,
sharpness, burnt-in text in its corners), and a 32x32 thumbnail. The rows stand beside
the shards, in the order of the index: finding them again would cost a second decoding of every file.
"""

import base64
from collections.abc import Iterable

import cv2
import numpy as np
from crc32c import crc32c

from cxr_data.images.decode import Facts

THUMBNAIL = 32
"""Height and width of the thumbnails."""

_FRAME_SHARE = 8  # the frame is an eighth of the height and width on each side

CORNERS = ("top left", "top right", "bottom left", "bottom right")

FEATURES_DTYPE = np.dtype(
    [
        ("width", "<u4"),
        ("height", "<u4"),
        ("format", "S8"),
        ("mode", "S16"),
        ("bits", "u1"),
        ("quality", "u1"),
        ("crc32c", "<u4"),
        ("border_rows", "<f4"),
        ("border_columns", "<f4"),
        ("sharpness", "<f4"),
        ("corners", "<f4", (len(CORNERS),)),
        ("thumbnail", "u1", (THUMBNAIL, THUMBNAIL)),
    ]
)
"""One row per record. Of the file: width to quality, as in `decode.Facts` (0 and empty where the file
was not seen); what was assumed, if anything was, follows the mode behind a "+". Of the 8-bit picture as it
is stored: the CRC32C of its pixels; the share of its rows and columns that are border; its sharpness; the
share of strong steps in each corner, as text has them."""

_FLAT = 8  # grey levels within a row that is border: JPEG leaves some noise in flat areas
_STEP = 80  # grey levels between neighbours: the edge of a letter, never of an organ
_CORNER = 6  # corners are a sixth of the height and width


def row_of(image: np.ndarray, facts: Facts | None = None) -> np.ndarray:
    """Measure one picture.

    Args:
      image: uint8 [S, S] or [S, S, 3], as it is stored in the record.
      facts: of its file, where it is known.

    Returns:
      A scalar array of `FEATURES_DTYPE`.
    """
    row = np.zeros((), FEATURES_DTYPE)
    if facts is not None:
        row["width"], row["height"], row["bits"], row["quality"] = (
            facts.width,
            facts.height,
            facts.bits,
            facts.quality,
        )
        mode = f"{facts.mode}+{facts.assumed}" if facts.assumed else facts.mode
        row["format"], row["mode"] = facts.format.encode(), mode.encode("ascii", "replace")
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    row["crc32c"] = crc32c(np.ascontiguousarray(image).reshape(-1).data)
    row["border_rows"], row["border_columns"] = _border(gray), _border(gray.T)
    row["sharpness"] = _sharpness(gray)
    row["corners"] = _text_in_corners(gray)
    row["thumbnail"] = _thumbnail(gray)
    return row


def lung_block(size: int) -> slice:
    """Return the rows, and the columns too, of the block over the lungs in a picture of `size` pixels.

    It is the middle three quarters of the height and of the width. What is around it is the frame: at least
    one pixel wide, so that `size` must be 3 or more.
    """
    frame = max(size // _FRAME_SHARE, 1)
    return slice(frame, size - frame)


def modes_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the modes of the files, bytes [N], and the letters of what was assumed about them, bytes [N]."""
    parts = np.char.partition(rows["mode"], b"+")
    return parts[:, 0], parts[:, 2]


def _border(gray: np.ndarray) -> float:
    """Share of the rows, from both ends, in which all pixels are nearly equal."""
    if _range(gray[0]) > _FLAT and _range(gray[-1]) > _FLAT:
        return 0.0  # the usual case, without a look at the rest
    content = np.flatnonzero(_range(gray) > _FLAT)
    return 1 - (content[-1] + 1 - content[0]) / len(gray) if content.size else 1.0


def _range(rows: np.ndarray) -> np.ndarray:
    spread: np.ndarray = rows.max(axis=-1) - rows.min(axis=-1)
    return spread


def _sharpness(gray: np.ndarray) -> float:
    """Energy of the steps between neighbours over that of steps of two pixels.

    1/4 in a smooth picture, 1 in white noise: what was enlarged once is smoother than what was not,
    whatever it shows.
    """
    near = cv2.norm(gray[:, 1:], gray[:, :-1], cv2.NORM_L2SQR) + cv2.norm(gray[1:], gray[:-1], cv2.NORM_L2SQR)
    far = cv2.norm(gray[:, 2:], gray[:, :-2], cv2.NORM_L2SQR) + cv2.norm(gray[2:], gray[:-2], cv2.NORM_L2SQR)
    return near / max(far, 1.0)


def _thumbnail(gray: np.ndarray) -> np.ndarray:
    # Halving is several times as fast as other ratios, and leaves the averages what they are.
    while gray.shape[0] >= 4 * THUMBNAIL and gray.shape[0] % 2 == 0:
        gray = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)


def _text_in_corners(gray: np.ndarray) -> tuple[float, ...]:
    side = max(gray.shape[0] // _CORNER, 2)
    ends = (slice(0, side), slice(-side, None))
    return tuple(_strong_steps(gray[rows, columns]) for rows in ends for columns in ends)


def _strong_steps(window: np.ndarray) -> float:
    steps = cv2.absdiff(window[:, 1:], window[:, :-1])
    return int(np.count_nonzero(steps > _STEP)) / steps.size


def encode_rows(rows: Iterable[np.ndarray]) -> str:
    """Return rows as text, for a line of the ledger."""
    return base64.b64encode(np.array(list(rows), FEATURES_DTYPE).tobytes()).decode()


def decode_rows(text: str) -> np.ndarray:
    """Return the rows of `encode_rows`. Raises ValueError if it is damaged."""
    return np.frombuffer(base64.b64decode(text, validate=True), FEATURES_DTYPE)

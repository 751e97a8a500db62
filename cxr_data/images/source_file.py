"""The bytes of one input file, read safely: what was listed may since have become anything."""

import os
import stat

from cxr_data.core import exact_read, storage
from cxr_data.images.undecodable import Undecodable


def read_source(path: str, max_pixels: int, listed_bytes: int | None = None) -> bytes:
    """Return the bytes of an input, at most as many as an image of `max_pixels` can have.

    Args:
      path: local or remote.
      max_pixels: of an image.
      listed_bytes: size of the file as it was found: an object is fetched whole, however large it is.

    Raises:
      Undecodable: it cannot be read, is no regular file any more, or is too large.
    """
    limit = 64 * (1 << 20) + 8 * max_pixels
    if listed_bytes is not None and listed_bytes > limit:
        raise Undecodable("too_large", f"{listed_bytes} bytes")
    if not storage.store_of(path).is_local:
        return storage.read_bytes(path, listed_bytes)
    try:
        # Links were resolved when the file was found: one that is there now was put there since.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise Undecodable("special_file", "not a regular file any more")
            if status.st_size > limit:
                raise Undecodable("too_large", f"{status.st_size} bytes")
            return exact_read.read_at(file, status.st_size, 0)
        finally:
            os.close(file)
    except EOFError as error:
        raise Undecodable("unreadable", "it became shorter while it was read") from error
    except OSError as error:
        raise Undecodable("unreadable", error.strerror or str(error)) from error

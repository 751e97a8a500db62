"""Arrays for batches, whose memory is used again once nobody holds them: aligned, and page-locked for a GPU.

A fresh batch of 25 MB costs a page fault for each 4 kB, nearly as much as reading the
images into it. malloc cannot help: it maps blocks above 32 MB again each time.
"""

import collections
import math
import weakref

import numpy as np

from cxr_data.core import page_locked

# TensorFlow takes over an array without copying it only if it starts on such a boundary.
_ALIGNMENT = 64
# More are rarely in flight; what comes back beyond that is given up.
_MOST_KEPT = 16


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialised C-contiguous array whose first byte lies on a 64-byte boundary."""
    return _shaped(_aligned_bytes(math.prod(shape) * dtype.itemsize), shape, dtype)


class BatchBuffers:
    """Makes aligned arrays, and takes their memory back when the last reference is gone.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._free: dict[int, collections.deque[np.ndarray]] = collections.defaultdict(
            lambda: collections.deque(maxlen=_MOST_KEPT)
        )

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array with arbitrary content; no other array that is still alive shares its memory."""
        size = math.prod(shape) * dtype.itemsize
        try:
            memory = self._free[size].pop()
        except IndexError:
            memory = page_locked.empty(max(size, 1))[:size]
        # The base of every view of an array is the array that owns the memory. Through the
        # buffer protocol `owner` is that array, for all views made of it, and no other
        # holder of the memory knows of it: it dies with the last view.
        owner = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(owner, self._free[size].append, memory).atexit = False
        return _shaped(owner, shape, dtype)


def _aligned_bytes(size: int) -> np.ndarray:
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size]


def _shaped(memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return memory.view(dtype).reshape(shape)

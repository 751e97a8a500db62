"""Image files to a model's input, through the sharder's own decoder and kernel."""

import collections
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cxr_data.core.errors import UsageError
from cxr_data.core.runtime import cores
from cxr_data.images.guarded import USUAL, Limits, SourceFile, read_each, read_one, read_picture
from cxr_data.images.preprocess import PixelOptions, encode
from cxr_data.images.undecodable import Undecodable


@dataclass(frozen=True)
class ImageFile:
    """One file to predict.

    Attributes:
      name: what it is called in the output: the argument, or its path below the folder given; the whole
        path where folders given have files of the same name.
      path: what to open.
    """

    name: str
    path: str


def find_files(arguments: Sequence[str]) -> list[ImageFile]:
    """Return the files given, and all files of the folders given, in order of their paths; hidden ones left
    out.

    Raises:
      UsageError: nothing is given, an argument does not exist, there is no file, or a folder holds a link to
        a folder, whose files would be missing.
    """
    if not arguments:
        raise UsageError(
            "name the images or folders to predict, such as predict --run_dir=RUN_DIR xray.png folder"
        )
    files: list[ImageFile] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files += [ImageFile(str(found.relative_to(path)), str(found)) for found in _below(path)]
        elif path.exists():
            files.append(ImageFile(argument, argument))
        else:
            raise UsageError(f"{argument}: no such file or folder")
    if not files:
        raise UsageError(f"no files in {', '.join(arguments)}")
    paths_of = collections.defaultdict(set)
    for file in files:
        paths_of[file.name].add(file.path)
    return [file if len(paths_of[file.name]) == 1 else ImageFile(file.path, file.path) for file in files]


def _below(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):
                target = os.path.realpath(os.path.join(parent, name))
                raise UsageError(
                    f"{os.path.join(parent, name)} is a link to the folder {target}, and its files would be "
                    "missing: name that folder too, and a folder without the link"
                )
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def read_image(path: str, options: PixelOptions, limits: Limits = USUAL) -> np.ndarray:
    """Return the pixels that the sharder would store of a file: [S, S, C] of `options.dtype`.

    It is read in a worker process.

    Raises:
      Undecodable: with the reason that the quarantine would have.
    """
    file = SourceFile(os.path.realpath(path))
    return encode(
        read_one(partial(read_picture, options=options, limits=limits), file, limits).pixels, options
    )


def read_images(
    files: Sequence[ImageFile], options: PixelOptions, batch_size: int, limits: Limits = USUAL
) -> Iterator[tuple[list[int], np.ndarray, dict[int, Undecodable]]]:
    """Read the files in batches, in worker processes.

    Yields:
      The numbers of the files that could be read, their images [B, S, S, C] padded with black to
      `batch_size`, and why the others could not.
    """
    found = read_each(
        partial(read_picture, options=options, limits=limits),
        (SourceFile(os.path.realpath(file.path)) for file in files),
        limits,
        cores(),
    )
    for start in range(0, len(files), batch_size):
        read: list[int] = []
        failed: dict[int, Undecodable] = {}
        images = np.zeros((batch_size, options.size, options.size, options.channels), options.dtype)
        numbers = range(start, min(start + batch_size, len(files)))
        for number, one in zip(numbers, itertools.islice(found, len(numbers)), strict=True):
            if isinstance(one, Undecodable):
                failed[number] = one
            else:
                images[len(read)] = encode(one.pixels, options)
                read.append(number)
        yield read, images, failed

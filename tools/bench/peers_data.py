"""The images of the benchmark of peers, and the copy that each peer reads.

One set of images is drawn and converted; every other copy is made of the converted arrays,
so that all peers that read arrays read the same numbers. What is there stays for the next run.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core.errors import DataError
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest
from cxr_data.synthetic import sample
from tools.bench.loaders import Peer


@dataclass(frozen=True)
class Data:
    """Where the copies are, and what they hold."""

    folder: Path
    images: int
    size: int

    @property
    def image_bytes(self) -> int:
        """Bytes of one float32 image of three channels."""
        return self.size * self.size * 3 * 4


def prepare(
    scratch: Path,
    images: int,
    size: int,
    chosen: Sequence[Peer],
    broken: Mapping[str, str],
    run_worker: Callable[[Peer, Mapping[str, object]], object],
) -> tuple[Data, dict[str, str]]:
    """Make what is missing below `scratch`.

    Args:
      scratch: folder to fill.
      images: how many.
      size: their height and width once converted.
      chosen: the peers that need a copy.
      broken: {key: why} of those that cannot run, and so cannot write their copy either.
      run_worker: runs a peer's worker with a specification.

    Returns:
      The data, and {key: why} of the peers whose copy could not be written.

    Raises:
      UsageError, DataError: the images cannot be made.
    """
    folder = scratch.absolute() / f"{images}x{size}"
    folder.mkdir(parents=True, exist_ok=True)
    make(folder / "images", lambda output: draw(output, images))
    make(folder / "shards", lambda output: convert(folder / "images", output, size))
    make(folder / "arrays", lambda output: unpack(folder / "shards", output))
    failed: dict[str, str] = {}
    for peer in chosen:
        if broken.get(peer.key):
            continue
        spec = {"data": str(folder / "arrays")}

        def write(output: Path, peer: Peer = peer, spec: Mapping[str, object] = spec) -> None:
            run_worker(peer, {**spec, "output": str(output)})

        try:
            make(folder / peer.data, write)
        except DataError as error:
            failed[peer.key] = f"cannot write its copy of the data: {error}"
    return Data(folder, images, size), failed


def make(output: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder that gets its name when it is whole."""
    if output.exists():
        return
    print(f"preparing {output}", file=sys.stderr, flush=True)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write(partial)
    partial.rename(output)


def draw(output: Path, images: int) -> None:
    """Draw the sample and put both of its splits into the same class folders."""
    drawn = output / "sample"
    plan = sample.make_sample(sample.SampleConfig(drawn, images=images))
    for image in plan:
        path = output / image.finding / Path(image.path).name
        path.parent.mkdir(exist_ok=True)
        (drawn / image.path).rename(path)
    shutil.rmtree(drawn)


def convert(source: Path, output: Path, size: int, dtype: str = "float32") -> None:
    """Convert all images into one split, as the sharder does by default; uint8 of one channel."""
    config = SharderConfig(
        str(source), str(output), size=size, dtype=dtype, channels=1 if dtype == "uint8" else 3,
        splits="train:1", duplicates="keep", quiet=True, max_bad=0,
    )  # fmt: skip
    make_tfrecords(config)


def prepare_findings(scratch: Path, count: int, size: int) -> Path:
    """Draw a sample of several findings a picture, and return its shards: float32, as `prepare_shards`."""
    scratch.mkdir(parents=True, exist_ok=True)
    images = scratch.absolute() / f"findings-{count}"
    make(
        images,
        lambda output: sample.make_sample(
            sample.SampleConfig(output / "sample", images=count, findings=True)
        ),
    )

    def convert_findings(output: Path) -> None:
        drawn = images / "sample"
        make_tfrecords(
            SharderConfig(
                str(drawn), str(output), size=size, splits="train:1", duplicates="keep", quiet=True,
                max_bad=0, labels="columns", table=(str(drawn / sample.TABLE_NAME),),
            )
        )  # fmt: skip

    shards = scratch.absolute() / f"{images.name}-{size}px"
    make(shards, convert_findings)
    return shards


def prepare_shards(
    scratch: Path, source: str, count: int, size: int, dtype: str = "float32"
) -> tuple[Path, Path]:
    """Make the shards of a benchmark of the trainer below `scratch`, where they are not there yet.

    Args:
      scratch: folder to fill.
      source: of the images; empty to draw `count` of them.
      count: how many are drawn.
      size: height and width of the converted images.
      dtype: of their pixels.

    Returns:
      The shards, and the folder of their images.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    images = Path(source) if source else scratch.absolute() / f"images-{count}"
    if not source:
        make(images, lambda output: draw(output, count))
    kind = "" if dtype == "float32" else f"-{dtype}"
    shards = scratch.absolute() / f"{images.name}-{size}px{kind}"
    make(shards, lambda output: convert(images, output, size, dtype))
    return shards, images


def unpack(shards: Path, output: Path) -> None:
    """Write each record's image as a .npy file, and the labels as one JSON list."""
    manifest = read_manifest(str(shards))
    labels = []
    dataset = Pipeline(manifest, ReadOptions(cache="none")).evaluation_dataset("train", batch_size=1)
    for number, batch in enumerate(dataset.as_numpy_iterator()):
        np.save(output / f"{number:06d}.npy", batch["image"][0])
        labels.append(int(batch["label"][0]))
    (output / "labels.json").write_text(json.dumps(labels))

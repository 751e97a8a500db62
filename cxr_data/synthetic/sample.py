"""A small synthetic chest X-ray dataset in the challenge's layout, for demos and tests.

config -> plan (class or findings, patient, size, mode, encoding of every file) -> draw -> encode -> folder

It has the traits of the real challenge that a reader must cope with: two sizes, grayscale
and RGB, JPEG and PNG, validation files named .png that hold JPEG bytes, and patients with
several pictures. Unlike in the real one, none of them predicts the class: within a split every
class has the same mix.

With `findings`, each picture has any number of findings, which stand in a table beside the pictures, some of
them uncertain or blank, as in the public data sets.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from cxr_data.core.csv_table import csv_bytes
from cxr_data.core.errors import CxrError, UsageError
from cxr_data.core.progress_bar import progress_bar
from cxr_data.core.settings import check_folder, check_settings, required, setting
from cxr_data.synthetic import phantom

CLASSES = ("covid", "normal", "pneumonia")
TEST_FOLDER = "test_set"
TABLE_NAME = "findings.csv"
# The configuration, and the proof that a folder is ours to overwrite: the folders alone
# would be those of a downloaded challenge dataset.
MARKER = ".cxr_sample.json"
# One image of each class for training and one for validation.
_FEWEST_IMAGES = 2 * len(CLASSES)
_VALIDATION_SHARE = 0.2
_FOLLOW_UPS = (1, 1, 2, 3)
_JPEG_QUALITY = 92
# Independent random streams of one seed: the plan, and the patients (drawn one by one).
_PLAN_STREAM, _PATIENT_STREAM, _TABLE_STREAM = 0, 1, 2
# Of a sample of several findings.
_FINDING_SHARE, _BLANK_SHARE, _UNCERTAIN_SHARE = 0.35, 0.1, 0.05
_SOURCES = ("north", "south")


def parse_sizes(texts: Sequence[str]) -> tuple[int, ...]:
    """Parse the sizes of `--size`. Raises UsageError: one is not a number."""
    try:
        return tuple(int(text) for text in texts)
    except ValueError as error:
        raise UsageError(f"--size={','.join(texts)}: must be whole numbers, such as 512,1024") from error


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """What to generate; the same configuration gives the same bytes.

    Raises:
      UsageError: a value out of range.
    """

    output: pathlib.Path = required(
        "Folder to make; it gets train/CLASS/*, validation/CLASS/* and test_set/*, or images/*.",
        parse=pathlib.Path,
        path=True,
        local=True,
    )
    images: int = setting(
        120,
        "Number of labelled images, of which about a fifth go to validation; all classes get "
        "equally many, give or take one.",
        at_least=_FEWEST_IMAGES,
    )
    seed: int = setting(0, "Seed of all images; the same flags and seed give the same bytes.", at_least=0)
    sizes: tuple[int, ...] = setting(
        ("512", "1024"),
        "Heights, and widths, of the images in pixels, mixed evenly.",
        parse=parse_sizes,
        flag="size",
    )
    test_images: int = setting(0, "Unlabelled images of further patients in test_set/.", at_least=0)
    findings: bool = setting(
        False,
        "Whether each picture has several findings: pictures in images/ and the table findings.csv, for "
        "make_tfrecords --labels=columns.",
    )
    overwrite: bool = setting(False, "Whether to replace an earlier sample at --output.")

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.sizes:
            raise UsageError("--size=: name at least one size in pixels")
        for size in self.sizes:
            if not 32 <= size <= 4096:
                raise UsageError(f"--size={size}: must be from 32 to 4096 pixels")
        if self.findings and self.test_images:
            raise UsageError(
                f"--test_images={self.test_images}: is for a sample of classes; leave out --findings"
            )


@dataclasses.dataclass(frozen=True)
class Encoding:
    """A file format under a name: `.png` does not have to mean PNG."""

    suffix: str
    content: str

    def encode(self, pixels: npt.NDArray[np.uint8]) -> bytes:
        """Encode uint8 [H, W] or [H, W, 3]."""
        options = {
            ".jpg": [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
            # Level 1 takes a third of the time of the default for 10 % more bytes.
            ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
        }[self.content]
        done, data = cv2.imencode(self.content, pixels, options)
        if not done:
            raise CxrError(f"OpenCV cannot encode {pixels.shape} as {self.content}")
        return data.tobytes()


_JPEG = Encoding(suffix=".jpg", content=".jpg")
_PNG = Encoding(suffix=".png", content=".png")
_JPEG_NAMED_PNG = Encoding(suffix=".png", content=".jpg")
_ENCODINGS = {"train": (_PNG, _JPEG), "validation": (_PNG, _JPEG, _JPEG_NAMED_PNG)}


@dataclasses.dataclass(frozen=True)
class PlannedImage:
    """One file of the sample, fixed before anything is drawn.

    Attributes:
      path: relative to the output folder, with forward slashes.
      finding: the class; also drawn, but not named, for unlabelled images; empty where there are `findings`.
      patient: number of the patient, which seeds the anatomy.
      follow_up: number of the patient's picture, from 0.
      size: height and width in pixels.
      channels: 1 (mode L) or 3 (mode RGB, equal channels).
      encoding: how it is written.
      findings: of `phantom.SEVERAL_FINDINGS`, those that are drawn.
    """

    path: str
    finding: str
    patient: int
    follow_up: int
    size: int
    channels: int
    encoding: Encoding
    findings: tuple[str, ...] = ()


def make_sample(config: SampleConfig) -> list[PlannedImage]:
    """Draw the sample into a temporary folder and give it its name when it is whole.

    Returns:
      The plan, in the order in which the files were written.

    Raises:
      UsageError: the output is there and not empty, or is not a sample to overwrite.
      CxrError: the folder cannot be written.
    """
    _check_output(config)
    plan = plan_findings(config) if config.findings else plan_sample(config)
    output = config.output.absolute()
    # The process id keeps two runs out of each other's way.
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        for image in progress_bar(f"draw {output.name}", "images", len(plan), plan):
            path = partial / image.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.encoding.encode(draw_image(image, config.seed)))
        if config.findings:
            (partial / TABLE_NAME).write_bytes(_table(plan, config.seed))
        (partial / MARKER).write_text(_marker(config), encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        partial.rename(output)
    except OSError as error:
        raise CxrError(f"{output}: cannot write the sample ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return plan


def plan_sample(config: SampleConfig) -> list[PlannedImage]:
    """Decide every file; deterministic in `config` (but for `output`).

    A patient has one to three pictures, all in one class of one split. Sizes, modes
    and encodings come in the same sequence in every class of a split, so that no
    class can be recognised by them.
    """
    rng = np.random.default_rng([config.seed, _PLAN_STREAM])
    # More numbers than patients, so that labelled and test images never share one.
    drawn = rng.choice(10**8, size=config.images + config.test_images, replace=False)
    numbers = iter(drawn.tolist())
    plan: list[PlannedImage] = []
    for split, encodings in _ENCODINGS.items():
        variants = _variants(config.sizes, encodings, rng)
        for index, name in enumerate(CLASSES):
            count = _split_counts(config.images, index)[split]
            visits = _visits(count, numbers, rng)
            for (patient, follow_up), (size, channels, encoding) in zip(
                visits, itertools.cycle(variants), strict=False
            ):
                path = f"{split}/{name}/{patient:08d}_{follow_up:03d}{encoding.suffix}"
                plan.append(PlannedImage(path, name, patient, follow_up, size, channels, encoding))
    return plan + _plan_test_set(config, numbers, rng)


def plan_findings(config: SampleConfig) -> list[PlannedImage]:
    """Decide every file of a sample of several findings; deterministic in `config` (but for `output`)."""
    rng = np.random.default_rng([config.seed, _PLAN_STREAM])
    numbers = iter(rng.choice(10**8, size=config.images, replace=False).tolist())
    variants = itertools.cycle(_variants(config.sizes, _ENCODINGS["train"], rng))
    plan = []
    for (patient, follow_up), (size, channels, encoding) in zip(
        _visits(config.images, numbers, rng), variants, strict=False
    ):
        shown = tuple(name for name in phantom.SEVERAL_FINDINGS if rng.random() < _FINDING_SHARE)
        path = f"images/{patient:08d}_{follow_up:03d}{encoding.suffix}"
        plan.append(PlannedImage(path, "", patient, follow_up, size, channels, encoding, shown))
    return plan


def _table(plan: Sequence[PlannedImage], seed: int) -> bytes:
    """Return the table of findings: some are uncertain, and some are not mentioned."""
    rng = np.random.default_rng([seed, _TABLE_STREAM])
    rows: list[list[object]] = [["path", "patient", "source", *phantom.SEVERAL_FINDINGS]]
    for image in plan:
        truth = [int(name in image.findings) for name in phantom.SEVERAL_FINDINGS]
        draws = rng.random(len(truth))
        said = [
            "" if draw < _BLANK_SHARE else -1 if draw < _BLANK_SHARE + _UNCERTAIN_SHARE else value
            for value, draw in zip(truth, draws, strict=True)
        ]
        rows.append([image.path, f"{image.patient:08d}", _SOURCES[image.patient % len(_SOURCES)], *said])
    return csv_bytes(rows)


def draw_image(image: PlannedImage, seed: int) -> npt.NDArray[np.uint8]:
    """Draw the pixels of a planned image.

    Returns:
      uint8 [size, size] for one channel, [size, size, 3] for three equal ones.
    """
    patient_seed = [seed, _PATIENT_STREAM, image.patient]
    anatomy = phantom.Anatomy.random(np.random.default_rng(patient_seed))
    rng = np.random.default_rng([*patient_seed, 1 + image.follow_up])
    if image.finding:
        picture = phantom.draw_finding(anatomy, image.finding, rng)
    else:
        picture = phantom.draw_findings(anatomy, image.findings, rng)
    shrinks = image.size < phantom.CANVAS
    kernel = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    scaled = cv2.resize(picture, (image.size, image.size), interpolation=kernel)
    # The detector's noise belongs to the file's own pixels.
    noise = rng.standard_normal(scaled.shape, dtype=np.float32) * np.float32(rng.uniform(0.004, 0.012))
    pixels = np.round(np.clip(scaled + noise, 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels if image.channels == 1 else np.repeat(pixels[..., np.newaxis], 3, axis=-1)


def _variants(
    sizes: Sequence[int], encodings: Sequence[Encoding], rng: np.random.Generator
) -> list[tuple[int, int, Encoding]]:
    """Return every size, mode and encoding, each followed by its opposite, so that few files mix well."""
    mix = list(itertools.product(sizes, (1, 3), encodings))
    half = rng.permutation(len(mix) // 2)
    return [mix[index] for first in half for index in (first, -1 - first)]


def _split_counts(images: int, class_index: int) -> dict[str, int]:
    """Return the images of a class in each split; the first classes take the remainder."""
    of_class = images // len(CLASSES) + (class_index < images % len(CLASSES))
    validation = max(1, round(of_class * _VALIDATION_SHARE))
    return {"train": of_class - validation, "validation": validation}


def _visits(images: int, patients: Iterator[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Spread `images` pictures over new patients; return pairs of patient and follow-up."""
    visits: list[tuple[int, int]] = []
    while len(visits) < images:
        patient = next(patients)
        visits.extend((patient, follow_up) for follow_up in range(rng.choice(_FOLLOW_UPS)))
    return visits[:images]


def _plan_test_set(
    config: SampleConfig, patients: Iterator[int], rng: np.random.Generator
) -> list[PlannedImage]:
    """Return the challenge's `test_set`: numbered JPEG files, one per patient, without labels."""
    variants = list(itertools.product(config.sizes, (1, 3), CLASSES))
    plan = []
    for number in range(config.test_images):
        size, channels, finding = variants[rng.integers(len(variants))]
        path = f"{TEST_FOLDER}/{number + 1:04d}{_JPEG.suffix}"
        plan.append(PlannedImage(path, finding, next(patients), 0, size, channels, _JPEG))
    return plan


def _check_output(config: SampleConfig) -> None:
    """Refuse to touch anything but an empty folder or, when asked, an earlier sample."""
    output = config.output
    check_folder("output", output)
    if not output.exists() or not any(output.iterdir()):
        return
    if not config.overwrite:
        raise UsageError(f"--output={output}: is not empty; pass --overwrite or another folder")
    if not (output / MARKER).is_file():
        raise UsageError(
            f"--output={output}: was not made by make_sample ({MARKER} is missing), so that --overwrite "
            "does not delete it; remove it yourself or choose another folder"
        )


def _marker(config: SampleConfig) -> str:
    made_from = dataclasses.asdict(config)
    del made_from["output"], made_from["overwrite"]
    if not config.findings:  # the marker of a sample of classes is as it always was
        del made_from["findings"]
    return json.dumps({"made_by": "tools.make_sample", **made_from}, indent=2) + "\n"

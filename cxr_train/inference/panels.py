"""A picture for each prediction: the image as the model saw it, the heat map, and the probabilities."""

import dataclasses
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cxr_data.core import storage
from cxr_data.core.figures import figure_bytes, plain
from cxr_data.images.guarded import USUAL, Limits
from cxr_data.records.manifest import Manifest
from cxr_train.inference.files import ImageFile, read_image

# A file's name has at most 255 bytes, a character up to four.
_LONGEST_STEM = 60
_CHARACTERS_IN_LINE = 100
_MOST_COLUMNS = 4
# A data set may have a hundred findings: what is left out is counted.
MOST_MAPS, MOST_BARS = 11, 30


@dataclasses.dataclass(frozen=True)
class PanelParts:
    """What a panel shows besides the image and the probabilities.

    Attributes:
      draw_map: lays the evidence for a class over an image, as `explanation.last_map.last_map` returns it;
        None for no map.
      check: verdict of the occlusion check of the maps.
      thresholds: by class name, the probability from which on the class is called.
      of_findings: whether several findings may be called in an image: each has its map.
    """

    draw_map: Callable[[np.ndarray, int], np.ndarray] | None = None
    check: str = "not made"
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    of_findings: bool = False


def write_panels(
    directory: pathlib.Path,
    files: Sequence[ImageFile],
    rows: Sequence[dict[str, Any]],
    manifest: Manifest,
    parts: PanelParts,
    limits: Limits = USUAL,
) -> None:
    """Write `NUMBER_NAME.png` for every file that was predicted; rows as of `predict.predict_files`."""
    directory.mkdir(parents=True, exist_ok=True)
    options = manifest.pixel_options
    for number, (file, row) in enumerate(zip(files, rows, strict=True)):
        if row["probabilities"] is None:
            continue
        picture = figure_bytes(panel(read_image(file.path, options, limits), row, parts), format="png")
        target = directory / f"{number:05d}_{pathlib.PurePath(file.name).stem[:_LONGEST_STEM]}.png"
        storage.replace(target, picture)


def panel(image: np.ndarray, row: dict[str, Any], parts: PanelParts) -> Figure:
    """Return one figure from an image [S, S, 1 or 3] as stored and its row."""
    pixels = np.asarray(image, np.float32) / (255 if image.dtype == np.uint8 else 1)
    pixels = np.broadcast_to(pixels, [*pixels.shape[:2], 3])
    shown = [("as the model sees it", "", pixels)]
    if parts.draw_map:
        mapped = _mapped(row, of_findings=parts.of_findings)
        for index, title in mapped[:MOST_MAPS]:
            drawn = parts.draw_map(pixels, index)
            note = "no evidence: the map is 0\n" if np.array_equal(drawn, pixels) else ""
            shown.append((title, f"{note}occlusion check: {parts.check}", drawn))
        if len(mapped) > MOST_MAPS:
            title, note, content = shown[-1]
            left = f"{len(mapped) - MOST_MAPS:,} more that are called have no map"
            shown[-1] = (f"{title};\n{left}", note, content)
    columns = min(len(shown) + 1, _MOST_COLUMNS)
    lines = -(-(len(shown) + 1) // columns)
    figure = Figure(
        figsize=(3.2 * (columns - 1) + 3.6, 4.1 * lines), layout=ConstrainedLayoutEngine(h_pad=0.1)
    )
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for spare in axes[len(shown) + 1 :]:
        spare.remove()
    *pictures, bars = axes[: len(shown) + 1]
    for axis, (title, note, content) in zip(pictures, shown, strict=True):
        axis.imshow(np.clip(content, 0, 1), vmin=0, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(plain(title), fontsize=9)
        axis.set_xlabel(note, fontsize=8)
    # A name that is not UTF-8 is no text for matplotlib.
    name = row["file"].encode("utf-8", "replace").decode()
    figure.suptitle(plain("\n".join(textwrap.wrap(name, _CHARACTERS_IN_LINE)) or name), fontsize=10)
    _draw_probabilities(bars, row["probabilities"], parts.thresholds)
    return figure


def _mapped(row: Mapping[str, Any], *, of_findings: bool) -> list[tuple[int, str]]:
    """Return the position and the title of each class that has a map: the findings that are called, the most
    probable first; the most probable class where there are no findings, or none is called.
    """
    names, said = list(row["probabilities"]), list(row["probabilities"].values())
    if not of_findings:
        best = int(np.argmax(said))
        return [(best, f"evidence for {names[best]}")]
    called = set(row["predicted"].split("|"))
    order = sorted(range(len(names)), key=lambda index: -said[index])
    found = [(index, f"evidence for {names[index]}") for index in order if names[index] in called]
    return found or [(order[0], f"evidence for {names[order[0]]}, which is not called")]


def _draw_probabilities(
    axis: Axes, probabilities: Mapping[str, float], thresholds: Mapping[str, float]
) -> None:
    """Draw a bar a class, of the most probable ones where they are many, and a line at its threshold."""
    several = len(probabilities)
    if several > MOST_BARS:
        most = sorted(probabilities, key=lambda name: -probabilities[name])[:MOST_BARS]
        probabilities = {name: probabilities[name] for name in most}
        axis.set_title(f"the {MOST_BARS} most probable of {several:,}", fontsize=9)
    places = range(len(probabilities))
    bars = axis.barh(places, list(probabilities.values()))
    axis.set_yticks(places, [plain(name) for name in probabilities])
    axis.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    axis.set_xlim(0, 1.15)
    axis.invert_yaxis()
    label = "probability; research only, not a diagnosis"
    for place, name in enumerate(probabilities):
        if name in thresholds:
            axis.plot([thresholds[name]] * 2, [place - 0.45, place + 0.45], color="black", linewidth=2)
            label = "probability (line: the class's threshold);\nresearch only, not a diagnosis"
    axis.set_xlabel(label, fontsize=8)

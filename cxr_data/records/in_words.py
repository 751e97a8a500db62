"""A manifest in words: a table of its images, and how they are stored."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.page import Grid
from cxr_data.core.wording import counted
from cxr_data.records.manifest import CLASSES


def images_by_split(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return how many images each split has, of the content of `manifest.json`."""
    if manifest.get("task", CLASSES) == CLASSES:
        return {split: sum(counts.values()) for split, counts in manifest["counts"].items()}
    images = dict.fromkeys(manifest["counts"], 0)  # a picture has none of the findings, or several
    for shard in manifest["shards"]:
        images[shard["split"]] = images.get(shard["split"], 0) + shard["records"]
    return images


def counts_table(manifest: Mapping[str, Any], patients: Mapping[str, int] | None = None) -> Grid:
    """Return the images of each split and class.

    Args:
      manifest: the content of `manifest.json`.
      patients: the known patients of each split, a column of their own where they are given.
    """
    names, kind = manifest["class_names"], manifest.get("task", CLASSES)
    rows, images = [], images_by_split(manifest)
    for split, counts in manifest["counts"].items():
        row = [split, *(f"{counts[name]:,}" for name in names), f"{images[split]:,}"]
        rows.append(row if patients is None else [*row, f"{patients.get(split, 0):,}"])
    header = ["split", *names, "all", *([] if patients is None else ["known patients"])]
    label = "class" if kind == CLASSES else "finding that is present"
    return Grid(f"Images of each split and {label}", header, rows)


def stored_facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how the images of a dataset are stored and what made them: each fact and its value."""
    return [
        ("files", ", ".join(f"{name} {count:,}" for name, count in manifest["source_counts"].items())),
        _stored_form(manifest),
        ("stored as", manifest["dtype"]),
        ("colour", manifest["color"]),
        ("resized by", manifest["kernel"]),
        (
            "mean, standard deviation",
            f"{_list(manifest['mean'])}; {_list(manifest['std'])}" if manifest["mean"] else "-",
        ),
        ("seed of the plan", str(manifest["seed"])),
        ("hash of the inputs", manifest["inputs_hash"]),
        ("made with", versions_in_words(manifest["versions"])),
    ]


def _stored_form(manifest: Mapping[str, Any]) -> tuple[str, str]:
    if manifest.get("embedding"):
        return "embedding", manifest["embedding"]
    return "image", f"{manifest['size']} x {manifest['size']} px, {counted(manifest['channels'], 'channel')}"


def versions_in_words(versions: Mapping[str, Any]) -> str:
    """Return the installed packages, each with its version."""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)

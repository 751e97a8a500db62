"""Masks beside pictures are not trained on as pictures."""

import pytest

from cxr_data.core.errors import UsageError
from cxr_data.sources.discover import Item
from cxr_data.sources.masks import check_masks


def items_named(*names, depth=0):
    return [
        Item(name, "", name.split("/")[depth], 1, 0, split=name.split("/")[0] if depth else None)
        for name in names
    ]


def laid_out(folders, classes=("covid", "normal"), above=""):
    return [f"{above}{c}/{f}/{c}-{n}.png" for c in classes for f in folders for n in range(3)]


@pytest.mark.parametrize(
    ("names", "depth"),
    [
        (laid_out(["images", "masks"]), 0),
        (laid_out(["images", "Lung_Masks"]), 0),
        (laid_out(["images", "masks"], above="train/"), 1),
        (["covid/images/1.png", "covid/masks/1.png", "normal/2.png"], 0),  # worse: it tells the class
        (laid_out(["images", "p1/segmentation"]), 0),
        (["images/covid/1.png", "masks/covid/1.png"], 0),
    ],
)
def test_folders_of_masks_stop_the_run_unless_they_are_asked_for(names, depth):
    items = items_named(*names, depth=depth)
    with pytest.raises(UsageError, match="seems to hold masks.*--exclude_folders=.*--exclude_folders=none"):
        check_masks(items, (), depth=depth)
    assert check_masks(items, ["none"], depth=depth) == ""


def test_folders_of_equal_names_in_every_class_are_said():
    warning = check_masks(items_named(*laid_out(["images", "lungs"])), (), depth=0)
    assert "'images' and 'lungs' with files of the same names" in warning
    assert "--exclude_folders=lungs" in warning


@pytest.mark.parametrize(
    "names",
    [
        ["covid/here/1.png", "covid/there/2.png", "normal/here/3.png", "normal/there/4.png"],
        [*laid_out(["here", "there"]), "pneumonia/1.png"],
        [*laid_out(["here", "there"]), "pneumonia/here/1.png"],
        ["covid/unmasked/1.png", "normal/unmasked/1.png"],
        ["covid/1.png", "normal/1.png"],
    ],
)
def test_other_folders_are_sources(names):
    assert check_masks(items_named(*names), (), depth=0) == ""

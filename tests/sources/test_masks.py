"""Masks beside pictures are not trained on as pictures."""

import pytest

from cxr_data.core.errors import UsageError
from cxr_data.sources.item import Item
from cxr_data.sources.left_out import LeftOut
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
        (laid_out(["images", "LungMasks"]), 0),
        (laid_out(["images", "lungmask"]), 0),
        (laid_out(["images", "Ground Truth"]), 0),
        (laid_out(["images", "seg"]), 0),
    ],
)
def test_folders_of_masks_stop_the_run_unless_they_are_asked_for(names, depth):
    items = items_named(*names, depth=depth)
    with pytest.raises(UsageError, match="seems to hold masks.*--exclude_folders=.*--exclude_folders=none"):
        check_masks(items, LeftOut(), depth=depth)
    assert check_masks(items, LeftOut(["none"]), depth=depth) == ""


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (("covid/x.png", "covid/x_mask.png", "normal/y.png"), "*_mask*"),
        (("a/a (1).png", "a/a (1)_mask.png", "a/a (1)_mask_1.png"), "*_mask*"),  # several of one picture
        (("train/a/X.png", "train/a/X Mask.png"), "* Mask*"),
        (("a/x.png", "a/x-seg.tif"), "*-seg*"),
        (("a/p1/x.png", "a/p2/x_segmentation.png"), "*_segmentation*"),
    ],
)
def test_files_of_masks_stop_the_run_unless_they_are_asked_for(names, pattern):
    depth = 1 if names[0].startswith("train/") else 0
    items = items_named(*names, depth=depth)
    with pytest.raises(UsageError) as raised:
        check_masks(items, LeftOut(), depth=depth)
    assert f"--exclude_files='{pattern}'" in str(raised.value)
    assert names[1] in str(raised.value)
    assert check_masks(items, LeftOut(["none"]), depth=depth) == ""
    left = [item for item in LeftOut(files=[pattern]).apply(items) if isinstance(item, Item)]
    assert check_masks(left, LeftOut(), depth=depth) == ""
    assert 0 < len(left) < len(items)


def test_a_name_that_leaves_nothing_out_is_refused():
    items = items_named("a/masks/1.png", "a/2_mask.png", "a/2.png")
    for used in (LeftOut(["masks"]), LeftOut(["none"]), LeftOut(files=["*_mask.png"])):
        used.refuse_unused(entry for entry in used.apply(items) if not isinstance(entry, Item))
    for unused, named in (
        (LeftOut(["mask"]), "--exclude_folders=mask:"),
        (LeftOut((), ["*.bmp"]), "--exclude_files="),
    ):
        with pytest.raises(UsageError, match=named):
            unused.refuse_unused(entry for entry in unused.apply(items) if not isinstance(entry, Item))


def test_folders_of_equal_names_in_every_class_are_said():
    warning = check_masks(items_named(*laid_out(["images", "lungs"])), LeftOut(), depth=0)
    assert "'images' and 'lungs' " in warning
    assert "--exclude_folders=lungs" in warning


@pytest.mark.parametrize(
    "names",
    [
        ["covid/here/1.png", "covid/there/2.png", "normal/here/3.png", "normal/there/4.png"],
        [*laid_out(["here", "there"]), "pneumonia/1.png"],
        [*laid_out(["here", "there"]), "pneumonia/here/1.png"],
        ["covid/unmasked/1.png", "normal/unmasked/1.png"],
        ["covid/1.png", "normal/1.png"],
        ["covid/1_mask.png", "normal/2.png"],  # of no picture
        ["covid/1.png", "normal/1_mask.png"],  # of another class's
    ],
)
def test_other_folders_are_sources(names):
    assert check_masks(items_named(*names), LeftOut(), depth=0) == ""

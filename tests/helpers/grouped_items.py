"""Made-up inputs in groups."""

from hypothesis import strategies as st

from cxr_data.sources.item import Item

SPLITS = {"train": 0.7, "validation": 0.2, "test": 0.1}


@st.composite
def datasets(draw, largest_group=5):
    """Items of a few classes, in groups of random sizes; a group may have two classes."""
    items, groups = [], {}
    for number in range(draw(st.integers(1, 40))):
        label = draw(st.sampled_from("abc"))
        for position in range(draw(st.integers(1, largest_group))):
            name = f"{label}/{number}_{position}.png"
            mixed = draw(st.integers(0, 9)) == 0
            items.append(Item(name, "/x/" + name, "a" if mixed else label, 100, 0))
            groups[name] = f"g{number}"
    return items, groups

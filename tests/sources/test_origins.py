"""Where a picture comes from: the table, the folder below the class, or --source_name."""

import pytest
from sharder_fixtures import encoded, fields_of, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.records.index import read_index
from cxr_data.sources.item import Item
from cxr_data.sources.origins import find_origins


def items_of(folders):
    return [Item(f"a/{folder}/{n}.png", "", "a", 1, 0, source=folder) for n, folder in enumerate(folders)]


def found(items, groups=None, otherwise="", *, from_folders=True):
    alone = {item.id: item.id for item in items}
    return find_origins(items, groups or alone, otherwise, from_folders=from_folders)


def test_a_folder_below_the_class_is_the_source_and_a_name_fills_the_gaps():
    origins = found(items_of(["north", "south", ""]), otherwise="here")
    assert list(origins.of.values()) == ["north", "south", "here"]
    assert not origins.assumed


def test_a_folder_that_is_the_patient_is_no_source():
    items = items_of(["patient00001", "patient00002", "north"])
    groups = {item.id: item.source if "patient" in item.source else item.id for item in items}
    assert list(found(items, groups).of.values()) == ["", "", "north"]


@pytest.mark.parametrize("folders", [[f"p{n // 2}" for n in range(60)], [f"p{n % 101}" for n in range(5000)]])
def test_many_folders_are_patients_or_studies(folders):
    origins = found(items_of(folders), otherwise="here")
    assert set(origins.of.values()) == {"here"}
    assert "column source" in origins.assumed


def test_a_table_may_name_as_many_sources_as_it_likes():
    items = items_of([f"p{n}" for n in range(200)])
    assert len(set(found(items, from_folders=False).of.values())) == 200


@pytest.mark.parametrize("word", ["", "nan", "unknown", "N/A"])
def test_a_word_for_nothing_is_no_source(word):
    assert set(found(items_of([word]), from_folders=False).of.values()) == {""}


def convert(source, output, **flags):
    config = SharderConfig(str(source), str(output), size=8, workers=0, quiet=True, audit=False, **flags)
    return make_tfrecords(config)


def sources_by_id(made):
    """{id: source} as the records say it, and as the index does."""
    numbers = read_index(made)["source"]
    said = {fields.id: fields.source for _, fields in fields_of(made)}
    assert [made.sources[number] for number in numbers] == list(said.values())
    return said


def test_folders_and_the_flag_reach_the_records(tmp_path):
    for number, name in enumerate(("a/north/1", "a/2", "b/images/3", "b/south/4", "b/south/5")):
        save(tmp_path / f"in/{name}.png", encoded(picture(number)))
    said = sources_by_id(convert(tmp_path / "in", tmp_path / "out", source_name="here"))
    assert said == {
        "a/north/1.png": "north", "a/2.png": "here", "b/images/3.png": "here",
        "b/south/4.png": "south", "b/south/5.png": "south",
    }  # fmt: skip


def test_the_column_of_a_csv_reaches_the_records(tmp_path):
    rows = []
    for number, (label, source) in enumerate([("a", "Zürich"), ("b", ""), ("a", "north"), ("b", "north")]):
        save(tmp_path / f"{number}.png", encoded(picture(number)))
        rows.append(f"{number}.png,{label},{source}")
    save(tmp_path / "list.csv", "\n".join(["path,label,source", *rows]).encode())
    said = sources_by_id(convert(tmp_path / "list.csv", tmp_path / "out"))
    assert said == {"0.png": "Zürich", "1.png": "", "2.png": "north", "3.png": "north"}


def test_another_source_is_another_conversion(tmp_path):
    save(tmp_path / "in/a/1.png", encoded(picture(1)))
    save(tmp_path / "in/b/2.png", encoded(picture(2)))
    convert(tmp_path / "in", tmp_path / "out", source_name="one")
    with pytest.raises(Exception, match="source_name was 'one'"):
        convert(tmp_path / "in", tmp_path / "out", source_name="two")

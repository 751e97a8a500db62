"""Tables of findings in the layouts of the public data sets: every row and every file is accounted for."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finding_tables import MAKERS, MadeTables, make_chexpert, make_columns, make_mimic, make_nih, make_vindr
from sharder_fixtures import content_of, fields_of, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core.errors import DataError, UsageError
from cxr_data.records.index import read_index
from cxr_data.records.quarantine_file import read_quarantine
from cxr_data.records.verify import verify_dataset
from cxr_data.sources.discover import Found, discover_findings
from cxr_data.sources.tables import table_file
from cxr_data.sources.tables.formats import FORMATS


def configured(made: MadeTables, output: str = "", **changed: object) -> SharderConfig:
    flags = {"size": 8, "workers": 0, "quiet": True, "audit": False} | made.flags | changed
    return SharderConfig(str(made.source), output, **flags)


def found(made: MadeTables, **changed: object) -> Found:
    tables = configured(made, **changed).tables
    assert tables is not None
    return discover_findings(str(made.source), tables)


def said(result: Found) -> dict[str, dict[str, int]]:
    return {item.id: dict(zip(result.findings, item.labels, strict=True)) for item in result.items}


def table_of(made: MadeTables, number: int = 0) -> Path:
    return Path(made.flags["table"][number])


def test_every_format_is_tested():
    assert MAKERS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", MAKERS)
def test_rows_and_files_become_items_or_are_named(tmp_path, name):
    made = MAKERS[name](tmp_path)
    result = found(made)
    assert said(result) == {
        path: dict.fromkeys(result.findings, made.rest[path]) | labels for path, labels in made.labels.items()
    }
    assert {entry.id: entry.reason for entry in result.quarantined} == made.lost
    assert {item.id: item.group for item in result.items if item.group} == made.patients
    assert {item.id: item.split for item in result.items if item.split} == made.splits
    assert any(FORMATS[name].blank in note for note in result.notes)


@pytest.mark.parametrize("name", MAKERS)
def test_a_conversion_keeps_the_findings_and_the_source(tmp_path, name):
    made = MAKERS[name](tmp_path)
    dataset = make_tfrecords(configured(made, str(tmp_path / "out")))
    assert dataset.task == "findings"
    expected = ("north", "south") if name == "columns" else (name,)
    assert tuple(sorted(dataset.sources)) == expected
    fields = [one for _, one in fields_of(dataset)]
    assert {one.id: dict(zip(dataset.class_names, one.labels, strict=True)) for one in fields} == {
        path: dict.fromkeys(dataset.class_names, made.rest[path]) | labels
        for path, labels in made.labels.items()
    }
    index = read_index(dataset)
    np.testing.assert_array_equal(index["labels"], [one.labels for one in fields])
    np.testing.assert_array_equal(index["label"], [int(1 in one.labels) for one in fields])
    assert {entry.id: entry.reason for entry in read_quarantine(dataset.directory)} == made.lost
    assert verify_dataset(dataset.directory, 1).problems == ()


def test_a_conversion_of_tables_that_was_stopped_goes_on_to_the_same_bytes(tmp_path):
    config = configured(make_chexpert(tmp_path), str(tmp_path / "out"))
    made = make_tfrecords(config)
    before = content_of(tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    Path(made.path(made.shards[0])).unlink()
    make_tfrecords(config)
    assert content_of(tmp_path / "out") == before
    with pytest.raises(DataError, match="views was"):
        make_tfrecords(replace(config, views=("AP",)))


def test_the_official_training_list_is_divided_by_fractions(tmp_path):
    made = make_nih(tmp_path)
    config = configured(made, str(tmp_path / "out"), splits="train:0.2,validation:0.8")
    dataset = make_tfrecords(config)
    assert dataset.count("test") == 2
    assert dataset.count("validation") >= 1


def test_views_are_kept_by_name_and_the_others_are_named(tmp_path):
    result = found(make_nih(tmp_path), views=("pa",))
    assert len(result.items) == 3
    assert [entry.id[-16:] for entry in result.quarantined if entry.reason == "other_view"] == [
        "00000001_001.png", "00000004_000.png",
    ]  # fmt: skip
    lateral = found(make_mimic(tmp_path / "mimic"), views=("L",))
    assert [item.id[-21:-4] for item in lateral.items] == ["174413ec-4ec4c1f7"]
    with pytest.raises(UsageError, match=r"--views=LL,OBLIQUE: .*the views are"):
        found(make_mimic(tmp_path / "mimic"), views=("LL", "OBLIQUE"))


def test_findings_are_chosen_and_ordered_by_classes(tmp_path):
    made = make_nih(tmp_path)
    result = found(made, classes=("Hernia", "Effusion"))
    assert result.findings == ("Hernia", "Effusion")
    assert [item.labels for item in result.items] == [(0, 0), (0, 0), (1, 0), (0, 1), (0, 0)]
    with pytest.raises(UsageError, match="--classes=Hernia,Flu: Flu is no finding"):
        found(made, classes=("Hernia", "Flu"))


@pytest.mark.parametrize(("readers", "cardiomegaly"), [("majority", 0), ("any", 1)])
def test_readers_together(tmp_path, readers, cardiomegaly):
    result = found(make_vindr(tmp_path), readers=readers)
    assert said(result)["train/50a418190bc3.png"]["Cardiomegaly"] == cardiomegaly
    assert any("differ on 1 of 3" in note for note in result.notes)


def test_two_readers_of_two_opinions_are_uncertain(tmp_path):
    made = make_vindr(tmp_path)
    lines = table_of(made).read_text().splitlines()
    table_of(made).write_text("\n".join(line for line in lines if "R10" not in line))
    assert said(found(made))["train/50a418190bc3.png"]["Cardiomegaly"] == -1


def test_rows_that_contradict_each_other_leave_the_picture_out(tmp_path):
    made = make_nih(tmp_path)
    with table_of(made).open("a") as table:
        table.write("00000004_000.png,Mass,0,4,58,M,AP,1,1,1,1,\n")
    lost = {entry.id: entry for entry in found(made).quarantined}
    entry = lost["images_002/images/00000004_000.png"]
    assert entry.reason == "conflicting_rows"
    assert "line 6 and Data_Entry_2017.csv line 9" in entry.detail


def added(path: Path, lines: str) -> None:
    content = path.read_bytes()
    packed = content.startswith(b"\x1f\x8b")
    text = (gzip.decompress(content) if packed else content).decode().rstrip("\n") + f"\n{lines}\n"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())


def reasons(made: MadeTables, **changed: object) -> dict[str, str]:
    result = found(made, **changed)
    assert not {item.id for item in result.items} & {entry.id for entry in result.quarantined}
    return {entry.id: entry.reason for entry in result.quarantined if entry.id not in made.lost}


def test_the_official_lists_are_checked_against_each_other_and_the_rows(tmp_path):
    made = make_nih(tmp_path)
    added(table_of(made, 2), "00000002_000.png\n00000003_000.png\n00000030_000.png")
    assert reasons(made) == {
        "images_001/images/00000002_000.png": "conflicting_rows",
        "00000003_000.png#test_list.txt line 4": "listed_twice",
        "00000030_000.png": "no_row",
    }


METADATA = "02aa804e-bde0afdd,{},50414267,,{},3056,2544"


@pytest.mark.parametrize(
    ("table", "line", "reason"),
    [
        (1, METADATA.format("10000032", "PA"), "listed_twice"),
        (1, METADATA.format("10000764", "PA"), "conflicting_rows"),
        (1, METADATA.format("10000032", "LATERAL"), "conflicting_rows"),
        (2, "02aa804e-bde0afdd,50414267,10000032,train", "listed_twice"),
        (2, "02aa804e-bde0afdd,50414267,10000032,test", "conflicting_rows"),
        (2, "ffff,50414267,10000032,test", "no_row"),
        (1, "ffff,10000032,99,,PA,3056,2544", "no_row"),
    ],
)
def test_a_picture_of_mimic_that_is_listed_again_is_named(tmp_path, table, line, reason):
    made = make_mimic(tmp_path)
    added(table_of(made, table), line)
    name = next(iter(made.labels)) if reason == "conflicting_rows" else line.partition(",")[0]
    (entry,) = reasons(made).items()
    assert entry[0].startswith(name)
    assert entry[1] == reason
    if reason == "conflicting_rows":
        assert reasons(made, views=("PA",))[name] == reason


@pytest.mark.parametrize(("changed", "reason"), [(False, "listed_twice"), (True, "conflicting_rows")])
def test_a_study_of_mimic_that_is_listed_again_is_named_with_each_of_its_pictures(tmp_path, changed, reason):
    made = make_mimic(tmp_path)
    lines = gzip.decompress(table_of(made).read_bytes()).decode().splitlines()
    added(table_of(made), lines[1].replace("1.0", "-1.0") if changed else lines[1])
    assert list(reasons(made).values()) == [reason] * 2


def test_two_lines_of_one_reader_that_differ_leave_the_picture_out(tmp_path):
    made = make_vindr(tmp_path)
    lines = table_of(made).read_text().splitlines()
    added(table_of(made), lines[1].replace("R11,1", "R11,0"))
    assert reasons(made) == {"train/50a418190bc3.png": "conflicting_rows"}


def test_a_row_that_may_mean_two_files_means_none(tmp_path):
    made = make_nih(tmp_path)
    save(
        made.source / "again/00000002_000.png",
        (made.source / "images_001/images/00000002_000.png").read_bytes(),
    )
    lost = {entry.id for entry in found(made).quarantined if entry.reason == "ambiguous"}
    assert lost == {"again/00000002_000.png", "images_001/images/00000002_000.png"}


def test_equal_names_in_other_folders_are_other_pictures(tmp_path):
    made = make_columns(tmp_path)
    (made.source / "b/1.png").unlink()
    result = found(made)
    assert "b/1.png" not in said(result)
    assert ("b/1.png", "missing") in {(entry.id, entry.reason) for entry in result.quarantined}
    chexpert = make_chexpert(tmp_path / "chexpert")
    (chexpert.source / "train/patient00002/study2/view1_frontal.jpg").unlink()
    assert len(found(chexpert).items) == 3


def test_the_tables_may_lie_among_the_pictures(tmp_path):
    made = make_nih(tmp_path)
    moved = made.source / "Data_Entry_2017.csv"
    table_of(made).rename(moved)
    result = found(made, table=(str(moved), *made.flags["table"][1:]))
    assert len(result.items) == 5
    assert not any("Data_Entry" in entry.id and entry.reason == "no_row" for entry in result.quarantined)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Hernia", "Hernja", r"Data_Entry_2017\.csv line 4: .*'Hernja'"),
        ("Finding Labels", "Findings", "has no column 'Finding Labels'"),
        ("Hernia", '"Hernia', "Data_Entry_2017.csv"),
    ],
)
def test_a_malformed_table_is_one_line_with_its_place(tmp_path, old, new, message):
    made = make_nih(tmp_path)
    table_of(made).write_text(table_of(made).read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        found(made)


def test_a_value_that_is_none_is_named(tmp_path):
    made = make_columns(tmp_path)
    table_of(made).write_text("path,edema\na/1.png,2\n")
    with pytest.raises(DataError, match="column of a finding"):
        found(made)
    with pytest.raises(DataError, match=r"own\.csv line 2: 'edema' is '2'"):
        found(made, classes=("edema",))


def test_some_rows_with_a_split_are_refused(tmp_path):
    made = make_nih(tmp_path)
    with pytest.raises(DataError, match=r"3 of 5 pictures have a split"):
        found(made, table=made.flags["table"][:2])


def test_tables_of_another_set_are_refused_with_the_column(tmp_path):
    made = make_nih(tmp_path)
    with pytest.raises(DataError, match="has no column 'Path'.*--labels"):
        found(made, labels="chexpert")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"table": ("x.csv",)}, "--table=x.csv: needs --labels"),
        ({"labels": "nih"}, "--labels=nih: needs --table="),
        ({"labels": "nih", "table": ("x",), "balance": "class"}, "--balance=class: "),
        ({"labels": "nih", "table": ("x",), "readers": "any"}, "--readers=any: needs --labels=vindr"),
        ({"views": ("PA",)}, "--views=PA: needs --labels"),
    ],
)
def test_flags_that_do_not_go_together(flags, message):
    with pytest.raises(UsageError, match=message):
        SharderConfig("in", "out", **flags)


def test_a_table_that_is_not_there(tmp_path):
    made = make_nih(tmp_path)
    with pytest.raises(UsageError, match=r"--table=.*no\.csv: no such file"):
        found(made, table=(str(tmp_path / "no.csv"),))
    mimic = make_mimic(tmp_path / "mimic")
    with pytest.raises(UsageError, match="table of metadata"):
        found(mimic, table=mimic.flags["table"][:1])


def test_a_gzip_file_of_too_much_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table_file, "LARGEST_TABLE", 3 << 20)
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"0" * (4 << 20)))
    with pytest.raises(DataError, match="t.csv.gz holds more than"):
        table_file.read_table(str(path))
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert table_file.read_table(str(path)).columns == ("a", "b")

"""Folders, CSVs, links and everything that is not an image."""

import dataclasses
import os
import re

import pytest
from sharder_fixtures import encoded, picture, save

from cxr_data.core.errors import DataError, UsageError
from cxr_data.sources.discover import discover_images
from cxr_data.sources.left_out import LeftOut
from cxr_data.sources.patients import find_groups

PNG = encoded(picture(0))


def reasons(found):
    assert len({entry.id for entry in found.quarantined}) == len(found.quarantined)
    return {entry.id: entry.reason for entry in found.quarantined}


def test_class_folders_by_id(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/patient/3.png"):
        save(tmp_path / name, PNG)
    found = discover_images(str(tmp_path))
    assert [(i.id, i.label) for i in found.items] == [
        ("a/1.png", "a"),
        ("a/patient/3.png", "a"),
        ("b/2.png", "b"),
    ]
    assert not found.has_splits


def test_split_folders_and_the_unlabelled_test_set(tmp_path):
    for name in ("train/a/1.png", "val/a/2.png", "Test/b/3.png", "test_set/0001.jpg", "other/notes.txt"):
        save(tmp_path / name, PNG)
    found = discover_images(str(tmp_path))
    assert [(i.split, i.label) for i in found.items] == [("test", "b"), ("train", "a"), ("validation", "a")]
    assert found.has_splits
    assert reasons(found) == {"test_set/0001.jpg": "no_class", "other/notes.txt": "no_class"}


@pytest.mark.parametrize(
    ("names", "empty", "what"),
    [
        (("a/1.png", "b/2.png"), "c", "class"),
        (("a/1.png", "b/2.png"), "c/deep", "class"),
        (("train/a/1.png", "test/b/2.png"), "train/c", "class"),
        (("train/a/1.png", "test/b/2.png"), "val", "split"),
    ],
)
def test_an_empty_folder_of_a_class_or_a_split_stops(tmp_path, names, empty, what):
    for name in names:
        save(tmp_path / name, PNG)
    for allowed in (empty, ".cache", "train/b" if what == "split" else "a/later"):
        (tmp_path / allowed).mkdir(parents=True)
    name = empty.split("/")[0 if names[0] == "a/1.png" else -1]
    with pytest.raises(DataError, match=f"folder .*{name}.* {what} .*--exclude_folders={name}"):
        discover_images(str(tmp_path))
    left_out = LeftOut([name])
    found = discover_images(str(tmp_path), left_out=left_out)
    assert len(found.items) == 2
    left_out.refuse_unused(found.quarantined)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("test/a/1.png", "test/b/2.png"), {"test"}),
        (("VAL/a/1.png",), {"validation"}),
        (("val/a/1.png", "test/b/2.png"), {"validation", "test"}),
        (("Training/a/1.png", "Testing/a/2.png"), {"train", "test"}),
    ],
)
def test_split_folders_in_any_combination_are_splits(tmp_path, names, splits):
    for name in names:
        save(tmp_path / name, PNG)
    found = discover_images(str(tmp_path))
    assert found.has_splits
    assert {item.split for item in found.items} == splits
    assert {item.label for item in found.items} <= {"a", "b"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("test/1.png", "train/2.png"), "folder ('train'|'test') .*split.*class"),
        (("train/a/1.png", "covid/2.png"), "'train' .*'covid' .*SPLIT/CLASS"),
        (("test/1.png", "covid/2.png", "normal/3.png"), "'test' .*'covid' .*SPLIT/CLASS"),
        (("train/a/1.png", "other/scan.0001"), "'train' .*'other' .*--exclude_folders=other"),
        (
            ("train/train/a/1.png", "train/val/b/2.png"),
            "'train' of train/train/a/1.png .*used as a class",
        ),
        (
            ("a/train/1.png", "a/test/2.png", "a/stray.png", "b/train/3.png"),
            "'test' of a/test/2.png .*name /.*/a; .*--exclude_folders=test",
        ),
        (("train/a/1.png", "train/a/val/2.png"), "'val' of train/a/val/2.png .*split"),
        (("val/a/1.png", "Validation/a/2.png"), "'Validation' and 'val' .*the split"),
    ],
)
def test_split_folders_in_place_of_classes_are_refused(tmp_path, names, message):
    for name in names:
        save(tmp_path / name, PNG)
    with pytest.raises(UsageError, match=message):
        discover_images(str(tmp_path))


def test_an_excluded_folder_is_in_the_ledger_and_disturbs_nothing(tmp_path):
    for name in ("train/a/1.png", "other/a/4.png", "train/a/masks/5.png"):
        save(tmp_path / name, PNG)
    found = discover_images(str(tmp_path), left_out=LeftOut(["other", "masks"]))
    assert [item.id for item in found.items] == ["train/a/1.png"]
    assert reasons(found) == {"other/a/4.png": "excluded", "train/a/masks/5.png": "excluded"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("covid", "Covid"),
        ("covid", "covid "),
        ("caf\u00e9", "cafe\u0301"),
        ("1", "1.0"),
        ("NORMAL", " normal"),
        ("no finding", "No  Finding"),
        ("no finding", "no_finding"),
        ("COVID-19", "covid19"),
        ("covid", "covid\u200b"),
    ],
)
def test_two_ways_to_write_a_class_are_refused_with_both(tmp_path, first, second):
    save(tmp_path / "x/1.png", PNG)
    save(tmp_path / "x/2.png", PNG)
    save(tmp_path / "folders" / first / "1.png", PNG)
    save(tmp_path / "folders" / second / "2.png", PNG)
    with pytest.raises(DataError) as raised:
        discover_images(str(tmp_path / "folders"))
    assert repr(first) in str(raised.value)
    assert repr(second) in str(raised.value)
    if first == first.strip() and second == second.strip():  # a CSV's cells have no blanks at their ends
        csv = save(tmp_path / "list.csv", f"path,label\nx/1.png,{first}\nx/2.png,{second}\n".encode())
        with pytest.raises(DataError, match="differ only by"):
            discover_images(str(csv))


@pytest.mark.parametrize("label", ["-1", "-1.0", "nan", "NaN", "NULL", "N/A", "Mass|Nodule"])
def test_what_is_no_class_is_no_label(tmp_path, label):
    save(tmp_path / "1.png", PNG)
    save(tmp_path / "2.png", PNG)
    csv = save(tmp_path / "list.csv", f"path,label\n1.png,a\n2.png,{label}\n".encode())
    with pytest.raises(DataError, match=rf"{re.escape(repr(label))} .*2\.png"):
        discover_images(str(csv))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("train", "Fold1", "fold1"), "'Fold1' .*'fold1' .*differ only by"),
        (("train", "a/b", "a/b"), "'a/b' .*name of a split"),
        (("train", "..", ".."), "'..' .*name of a split"),
        (("train", "train+test", "test"), r"'train\+test' .*name of a split"),
    ],
)
def test_what_names_no_file_is_no_split(tmp_path, splits, message):
    rows = [f"{number}.png,a,{split}\n" for number, split in enumerate(splits)]
    for number in range(3):
        save(tmp_path / f"{number}.png", PNG)
    csv = save(tmp_path / "list.csv", ("path,label,split\n" + "".join(rows)).encode())
    with pytest.raises(DataError, match=message):
        discover_images(str(csv))


@pytest.mark.parametrize("names", [("covid-", "covid"), ("1-2", "12"), ("stage 1 2", "stage 12"), ("a", "b")])
def test_names_that_differ_by_more_than_separators_are_two_classes(tmp_path, names):
    for name in names:
        save(tmp_path / name / "1.png", PNG)
    assert {item.label for item in discover_images(str(tmp_path)).items} == set(names)


def test_a_class_that_one_split_has_lost_stops_the_run(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "test/a/2.png"):
        save(tmp_path / "source" / name, PNG)
    elsewhere = save(tmp_path / "elsewhere/3.png", PNG)
    (tmp_path / "source/test/b").mkdir()
    (tmp_path / "source/test/b/3.png").symlink_to(elsewhere)
    with pytest.raises(DataError, match="class 'b' .* in test .*: test/b/3.png.*--follow_links="):
        discover_images(str(tmp_path / "source"))
    found = discover_images(str(tmp_path / "source"), follow_links=str(tmp_path / "elsewhere"))
    assert len(found.items) == 4
    rows = "source/train/a/1.png,a,train\nsource/train/b/1.png,b,train\nsource/test/a/2.png,a,test\n"
    text = f"path,label,split\n{rows}gone.png,b,test\n"
    with pytest.raises(DataError, match="class 'b' .* in test .*: gone.png"):
        discover_images(str(save(tmp_path / "list.csv", text.encode())))


def test_a_class_of_a_csv_without_a_file_stops(tmp_path):
    save(tmp_path / "1.png", PNG)
    csv = save(tmp_path / "list.csv", b"path,label\n1.png,a\n../elsewhere/2.png,b\n")
    with pytest.raises(DataError, match=r"class 'b' .*: \.\./elsewhere/2\.png"):
        discover_images(str(csv))


def test_odd_entries_are_all_in_the_ledger(tmp_path):
    source = tmp_path / "source"
    save(source / "a/good.png", PNG)
    save(source / "top.png", PNG)
    save(source / "a/.hidden.png", PNG)
    secret = save(tmp_path / "secret.png", PNG)
    (source / "a/folder.png").mkdir()
    (source / "a/dangling.png").symlink_to("nowhere.png")
    (source / "a/loop.png").symlink_to("loop.png")
    (source / "a/out.png").symlink_to(secret)
    (source / "a/inside.png").symlink_to("good.png")
    os.mkfifo(source / "a/pipe.png")
    found = discover_images(str(source))
    assert [i.id for i in found.items] == ["a/good.png", "a/inside.png"]
    assert found.items[1].path == str(source / "a/good.png")
    assert reasons(found) == {
        "top.png": "no_class",
        "a/folder.png": "directory",
        "a/dangling.png": "dangling_link",
        "a/loop.png": "unreadable",
        "a/out.png": "outside_source",
        "a/pipe.png": "special_file",
    }


@pytest.fixture
def linked(tmp_path):
    """A source whose class covid is a link to a folder elsewhere, with a loop in it."""
    save(tmp_path / "source/normal/1.png", PNG)
    save(tmp_path / "archive/covid_2021/2.png", PNG)
    (tmp_path / "archive/covid_2021/again").symlink_to(tmp_path / "archive")
    (tmp_path / "archive/again").symlink_to(tmp_path / "archive/covid_2021")
    (tmp_path / "source/covid").symlink_to(tmp_path / "archive/covid_2021")
    return tmp_path


def test_a_link_to_a_folder_stops_the_run(linked):
    with pytest.raises(UsageError, match="^covid .*link.*/archive/covid_2021.*--follow_links="):
        discover_images(str(linked / "source"))
    with pytest.raises(UsageError, match="^covid .*link.*--follow_links="):
        discover_images(str(linked / "source"), follow_links=str(linked / "source"))
    with pytest.raises(UsageError, match="--follow_links=.*/nowhere: "):
        discover_images(str(linked / "source"), follow_links=str(linked / "nowhere"))
    found = discover_images(str(linked / "source"), left_out=LeftOut(["covid"]))
    assert [item.id for item in found.items] == ["normal/1.png"]
    assert reasons(found) == {"covid": "excluded"}
    (linked / "source/normal/masks").mkdir()
    (linked / "source/normal/masks/all").symlink_to(linked / "archive")
    found = discover_images(str(linked / "source"), left_out=LeftOut(["covid", "masks"]))
    assert reasons(found) == {"covid": "excluded", "normal/masks/all": "excluded"}


def test_links_are_followed_below_the_folder_that_was_named_without_going_round(linked):
    found = discover_images(str(linked / "source"), follow_links=str(linked / "archive"))
    assert [(item.id, item.label) for item in found.items] == [
        ("covid/2.png", "covid"),
        ("normal/1.png", "normal"),
    ]
    assert reasons(found) == dict.fromkeys(
        ["covid/again/again", "covid/again/covid_2021"], "link_to_directory"
    )


def test_a_class_of_links_out_of_the_source_stops_the_run_or_is_followed(linked):
    source = linked / "source"
    (source / "covid").unlink()
    (source / "covid").mkdir()
    (source / "covid/2.png").symlink_to(linked / "archive/covid_2021/2.png")
    with pytest.raises(DataError, match=r"class 'covid' .*: covid/2\.png: .*link"):
        discover_images(str(source))
    found = discover_images(str(source), follow_links=str(linked / "archive"))
    assert [item.id for item in found.items] == ["covid/2.png", "normal/1.png"]


@pytest.mark.parametrize("name", ["covid", "train/covid", "COVID-19"])
@pytest.mark.parametrize("target", ["/nowhere/covid", "covid"])  # a disk that is not there; a loop
def test_a_broken_link_in_the_place_of_a_class_stops_the_run(tmp_path, name, target):
    save((tmp_path / name).parent / "normal/1.png", PNG)
    (tmp_path / name).symlink_to(target if target.startswith("/") else (tmp_path / name).name)
    with pytest.raises(DataError, match=f"{name} .*link .*nowhere .*--exclude_folders="):
        discover_images(str(tmp_path))
    found = discover_images(str(tmp_path), left_out=LeftOut([name.split("/")[-1]]))
    assert reasons(found) == {name: "excluded"}


def test_a_folder_that_cannot_be_read_stops_the_run(tmp_path, monkeypatch):
    save(tmp_path / "a/1.png", PNG)
    save(tmp_path / "b/1.png", PNG)
    scandir = os.scandir

    def refusing(folder):
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"/b .*\(Permission denied\)"):
        discover_images(str(tmp_path))
    assert reasons(discover_images(str(tmp_path), left_out=LeftOut(["b"]))) == {"b": "excluded"}


def test_empty_and_missing_sources(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        discover_images(str(tmp_path))
    with pytest.raises(UsageError, match=f"--source={tmp_path}/nowhere: "):
        discover_images(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=rf"--source={tmp_path}/nowhere\.csv: "):
        discover_images(str(tmp_path / "nowhere.csv"))


def test_csv(tmp_path):
    for name in ("x/1.png", "x/2.png"):
        save(tmp_path / name, PNG)
    outside = save(tmp_path.parent / f"{tmp_path.name}_outside.png", PNG)
    rows = ["x/1.png,a,p1,train", "x/2.png,b,p2,val", "x/2.png,b,p2,val", "x/3.png,b,p3,val"]
    text = "\n".join(["Path, Label,group,split", *rows, f"../{outside.name},a,p4,train", ""])
    csv = save(tmp_path / "list.csv", text.encode())
    found = discover_images(str(csv))
    assert [(i.id, i.label, i.group, i.split) for i in found.items] == [
        ("x/1.png", "a", "p1", "train"),
        ("x/2.png", "b", "p2", "validation"),
    ]
    assert reasons(found) == {
        "x/2.png#line4": "listed_twice",
        "x/3.png": "missing",
        f"../{outside.name}": "outside_source",
    }
    assert found.discovered == 5


def test_the_numbers_of_lines_are_no_patients(tmp_path):
    for name in ("1.png", "2.png"):
        save(tmp_path / name, PNG)
    text = b",path,label\n0,1.png,a\n1,2.png,b\n"  # a data frame's index has no name
    found = discover_images(str(save(tmp_path / "list.csv", text)))
    assert [item.group for item in found.items] == [None, None]


@pytest.mark.parametrize("patient", ["group", "Patient", "patient_id"])
@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (",", "utf-8")])
def test_a_csv_as_a_spreadsheet_saves_it(tmp_path, patient, delimiter, encoding):
    for name in ("x/1.png", "ö/2.png"):
        save(tmp_path / name, PNG)
    rows = [("Path", "Label", patient, "Gewicht"), ("x/1.png", "a", "p1", "1,5"), ("ö\\2.png", "b", "p2", "")]
    rows = [[f'"{cell}"' if delimiter in cell else cell for cell in row] for row in rows] + [[""] * 4]
    text = "".join(delimiter.join(row) + "\r\n" for row in rows)
    found = discover_images(str(save(tmp_path / "list.csv", text.encode(encoding))))
    assert [(i.id, i.label, i.group) for i in found.items] == [("x/1.png", "a", "p1"), ("ö/2.png", "b", "p2")]
    (note,) = found.notes
    assert note.split("; ")[0].endswith(": Gewicht")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"file,class\n1.png,a\n", "path,label"),
        (b"path,label\n1.png,\n", r"list\.csv line 2: "),
        (b"path,label\n1.png,a\n1.png,b\n", r"list\.csv line 3: 1\.png .*'b' .*'a'"),
        (b"path,label,split\n1.png,a,train\n2.png,a,\n", r"list\.csv: 1 of 2 .*split"),
        (b"path,label\n\xff\xfe,a\n", r"list\.csv .*UTF-8"),
        (b"", r"list\.csv is empty"),
    ],
)
def test_malformed_csv(tmp_path, text, message):
    save(tmp_path / "1.png", PNG)
    save(tmp_path / "2.png", PNG)
    csv = save(tmp_path / "list.csv", text)
    with pytest.raises(DataError, match=message):
        discover_images(str(csv))


def items_named(tmp_path, *names):
    for name in names:
        save(tmp_path / name, PNG)
    return discover_images(str(tmp_path)).items


def test_public_sets_are_grouped_by_their_names(tmp_path):
    items = items_named(
        tmp_path,
        "a/00000013_005.png",
        "b/00000013_006.png",
        "a/patient00001/study1/view1.jpg",
        "a/patient00001/study2/view1.jpg",
        "b/person88_virus_163.jpeg",
        "b/person88_virus_164.jpeg",
        "a/free.png",
    )
    groups = find_groups(items, "auto", {})
    assert set(groups.of.values()) == {"00000013", "patient00001", "person88", "a/free.png"}
    assert "4 groups of 7 images" in groups.summary
    assert groups.warning == ""


def test_person_numbers_that_begin_anew_in_each_split_and_class_are_kept_apart(tmp_path):
    items = items_named(
        tmp_path,
        *(
            "train/sick/person1_virus_6.jpeg",
            "train/sick/person1_virus_7.jpeg",
            "train/sick/person2_virus_8.jpeg",
        ),
        *("test/sick/person1_virus_9.jpeg", "test/well/free.jpeg"),
    )
    groups = find_groups(items, "auto", {})
    assert groups.of == {
        "test/sick/person1_virus_9.jpeg": "test/sick/person1",
        "test/well/free.jpeg": "test/well/free.jpeg",
        "train/sick/person1_virus_6.jpeg": "train/sick/person1",
        "train/sick/person1_virus_7.jpeg": "train/sick/person1",
        "train/sick/person2_virus_8.jpeg": "train/sick/person2",
    }
    assert "1 of the numbers" in groups.assumed
    assert "person1 in test/sick and train/sick" in groups.assumed
    assert "3 persons of 4 images" in groups.assumed
    assert "--group_regex=none" in groups.assumed


def test_person_numbers_of_two_classes_are_kept_apart_and_others_stay_as_they_are(tmp_path):
    items = items_named(tmp_path, "bacteria/person1_bacteria_1.jpeg", "virus/person1_virus_1.jpeg")
    assert set(find_groups(items, "auto", {}).of.values()) == {"bacteria/person1", "virus/person1"}
    alone = items_named(tmp_path / "one", "sick/person1_virus_1.jpeg", "sick/person2_virus_1.jpeg")
    groups = find_groups(alone, "auto", {})
    assert set(groups.of.values()) == {"person1", "person2"}
    assert groups.assumed == ""
    # The numbers of this set are those of the whole set: one in two splits is a patient in two splits.
    nih = items_named(tmp_path / "nih", "train/a/00000013_005.png", "test/b/00000013_006.png")
    assert set(find_groups(nih, "auto", {}).of.values()) == {"00000013"}


def test_no_patient_known_is_said_loudly(tmp_path):
    groups = find_groups(items_named(tmp_path, "a/1.png", "b/2.png"), "auto", {})
    assert "--group_regex" in groups.warning


def test_one_group_of_nearly_all_is_said_loudly(tmp_path):
    groups = find_groups(items_named(tmp_path, *(f"a/anon_{i}.png" for i in range(20))), "(anon)", {})
    assert "is it one patient?" in groups.warning


@pytest.mark.parametrize("word", ["nan", "NA", "None", "unknown", "Anonymous", "-1", "?"])
def test_words_for_nobody_are_no_patient(tmp_path, word):
    items = items_named(tmp_path, "a/1.png", "a/2.png", "b/3.png", "b/4.png")
    stated = [dataclasses.replace(item, group=word) for item in items[:3]]
    groups = find_groups([*stated, dataclasses.replace(items[3], group="p1")], "auto", {})
    assert groups.of == {"a/1.png": "a/1.png", "a/2.png": "a/2.png", "b/3.png": "b/3.png", "b/4.png": "p1"}
    assert "1 by CSV, 3 stand alone" in groups.summary or "3 stand alone, 1 by CSV" in groups.summary


def test_a_patient_in_two_ways_of_writing_is_refused(tmp_path):
    items = items_named(tmp_path, "a/1.png", "a/2.png")
    stated = [dataclasses.replace(item, group=group) for item, group in zip(items, ("7", "7.0"), strict=True)]
    with pytest.raises(DataError, match="'7' and '7.0'"):
        find_groups(stated, "auto", {})


def test_group_regex_errors(tmp_path):
    items = items_named(tmp_path, "a/1.png")
    with pytest.raises(UsageError, match="--group_regex=zzz "):
        find_groups(items, "zzz", {})
    with pytest.raises(UsageError, match=r"--group_regex=\("):
        find_groups(items, "(", {})


def test_dicom_patient_goes_before_the_name_and_csv_before_both(tmp_path):
    items = items_named(tmp_path, "a/00000013_005.png")
    assert find_groups(items, "auto", {items[0].id: "patient-x"}).of[items[0].id] == "patient-x"

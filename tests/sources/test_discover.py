"""Folders, CSVs, links and everything that is not an image."""

import os

import pytest
from sharder_fixtures import encoded, picture, save

from cxr_data.core.errors import DataError, UsageError
from cxr_data.sources.discover import discover_images
from cxr_data.sources.patients import find_groups

PNG = encoded(picture(0))


def reasons(found):
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
    for name in ("train/a/1.png", "val/a/2.png", "Test/b/3.png", "test_set/0001.jpg", "other/a/4.png"):
        save(tmp_path / name, PNG)
    found = discover_images(str(tmp_path))
    assert [(i.split, i.label) for i in found.items] == [("test", "b"), ("train", "a"), ("validation", "a")]
    assert found.has_splits
    assert reasons(found) == {"test_set/0001.jpg": "no_class", "other/a/4.png": "no_class"}


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
    (source / "a/tree").symlink_to(tmp_path)
    (source / "a/in_tree").symlink_to(source)
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
        "a/tree": "outside_source",
        "a/in_tree": "link_to_directory",
        "a/pipe.png": "special_file",
    }


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"file,class\n1.png,a\n", "path,label"),
        (b"path,label\n1.png,\n", r"list\.csv line 2: "),
        (b"path,label\n1.png,a\n1.png,b\n", r"list\.csv line 3: 1\.png .*'b' .*'a'"),
        (b"path,label,split\n1.png,a,train\n2.png,a,\n", r"list\.csv: 1 of 2 .*split"),
        (b"path,label\n\xff\xfe,a\n", r"list\.csv .*UTF-8"),
        (b"", "path,label"),
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


def test_no_patient_known_is_said_loudly(tmp_path):
    groups = find_groups(items_named(tmp_path, "a/1.png", "b/2.png"), "auto", {})
    assert "--group_regex" in groups.warning


def test_one_group_of_nearly_all_is_said_loudly(tmp_path):
    groups = find_groups(items_named(tmp_path, *(f"a/anon_{i}.png" for i in range(20))), "(anon)", {})
    assert "is it one patient?" in groups.warning


def test_group_regex_errors(tmp_path):
    items = items_named(tmp_path, "a/1.png")
    with pytest.raises(UsageError, match="--group_regex=zzz "):
        find_groups(items, "zzz", {})
    with pytest.raises(UsageError, match=r"--group_regex=\("):
        find_groups(items, "(", {})


def test_dicom_patient_goes_before_the_name_and_csv_before_both(tmp_path):
    items = items_named(tmp_path, "a/00000013_005.png")
    assert find_groups(items, "auto", {items[0].id: "patient-x"}).of[items[0].id] == "patient-x"

"""Tables of several public sets as one: each finding under its common name, unknown where a set has none."""

import csv
import dataclasses
import logging
import re
import shlex
from pathlib import Path

import pytest
from finding_tables import MAKERS
from in_process import run_command
from project import ROOT

from cxr_data import TableSet, join_tables
from cxr_data.core.errors import DataError, UsageError
from cxr_data.records.index import read_split_fields
from cxr_data.records.manifest import read_manifest
from cxr_data.records.verify import verify_dataset


def made_sets(root: Path, **names: dict[str, str]) -> tuple[dict[str, TableSet], dict]:
    """Returns a set of each format that is named, below a folder, and what the makers say of it."""
    sets, made = {}, {}
    for name, common in names.items():
        made[name] = MAKERS[name](root / name)
        tables, views = made[name].flags["table"], made[name].flags.get("views", ())
        sets[name] = TableSet(f"{name}/in", name, tables, common, views)
    return sets, made


SAME = {
    "chexpert": {"Pleural Effusion": "Effusion"},
    "padchest": {"pleural effusion": "Effusion", "cardiomegaly": "Cardiomegaly"},
    "vindr": {"Pleural effusion": "Effusion", "Pleural thickening": "Pleural_Thickening"},
}


@pytest.mark.parametrize("other", SAME)
def test_two_sets_become_one_table_that_is_converted(tmp_path, other, caplog):
    caplog.set_level(logging.INFO)
    root = tmp_path / "xrays"
    sets, made = made_sets(root, nih={}, **{other: SAME[other]})
    table, out = tmp_path / "all.csv", tmp_path / "out"
    lost = join_tables(str(root), sets, str(table))
    assert {(entry.id, entry.reason) for entry in lost} == {
        (f"{name}/{where}", why) for name, one in made.items() for where, why in one.lost.items()
    }
    assert "nih: 5 pictures, left out: " in caplog.text
    assert f"{other}: blanks: " in caplog.text
    done = run_command("tools.make_tfrecords", f"--source={root}", "--labels=columns", f"--table={table}",
                       f"--output={out}", "--size=8", "--workers=0")  # fmt: skip
    assert done.code == 0, done.output
    manifest = read_manifest(str(out))
    assert {*manifest.sources} == {"nih", other}
    names = manifest.class_names
    assert not {*SAME[other]} & {*names}
    said, patients, splits = {}, {}, {}
    for split in manifest.splits:
        for record in read_split_fields(manifest, split):
            said[record.id] = dict(zip(names, record.labels, strict=True))
            patients[record.id], splits[record.id] = record.group, split
    expected = {}
    for name, one in made.items():
        for where, labels in one.labels.items():
            of_set = {sets[name].names.get(key, key): value for key, value in labels.items()}
            known = said[f"{name}/in/{where}"]
            expected[f"{name}/in/{where}"] = {key: of_set.get(key, known[key]) for key in names}
            if name == "nih":  # what only the other labels is unknown
                assert known["Hernia"] == of_set.get("Hernia", 0)
                assert {known[key] for key in names[14:]} <= {-2}
            if one.patients:
                assert patients[f"{name}/in/{where}"] == f"{name}/{one.patients[where]}"
    assert said == expected
    if other == "padchest":
        assert "split" not in table.read_text().splitlines()[0]
    else:
        assert splits == {f"{n}/in/{w}": split for n, one in made.items() for w, split in one.splits.items()}
    assert verify_dataset(str(out), 1).problems == ()


def test_names_that_do_not_fit_are_refused(tmp_path):
    for names, wrong in (({"Efusion": "x"}, "Efusion"), ({"Mass": "Nodule"}, "Nodule")):
        sets, _ = made_sets(tmp_path, nih=names)
        with pytest.raises(UsageError, match=f"nih: names: '{wrong}'"):
            join_tables(str(tmp_path), sets, str(tmp_path / "all.csv"))
    sets, _ = made_sets(tmp_path, nih={}, vindr={})
    with pytest.raises(DataError, match="'Pleural thickening' .of vindr. and 'Pleural_Thickening' .of nih."):
        join_tables(str(tmp_path), sets, str(tmp_path / "all.csv"))
    assert not (tmp_path / "all.csv").exists()


@pytest.mark.parametrize(
    ("field", "value"), [("labels", "NIH"), ("readers", "Any"), ("tables", "x.csv"), ("views", "PA")]
)
def test_a_field_that_no_flag_takes_is_refused(tmp_path, field, value):
    sets, _ = made_sets(tmp_path, vindr={})
    sets["vindr"] = dataclasses.replace(sets["vindr"], **{field: value})
    with pytest.raises(UsageError, match=f"vindr: {field}: "):
        join_tables(str(tmp_path), sets, str(tmp_path / "all.csv"))
    with pytest.raises(UsageError, match="sets: "):
        join_tables(str(tmp_path), {}, str(tmp_path / "all.csv"))
    assert not (tmp_path / "all.csv").exists()


def test_patients_of_two_sets_never_become_one(tmp_path):
    sets = {}
    for name, patient in {"a": "b-1", "a-b": "1"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(name.encode())
        (tmp_path / name / "table.csv").write_text(f"path,patient,Mass\nx.png,{patient},1\n")
        sets[name] = TableSet(name, "columns", (str(tmp_path / name / "table.csv"),))
    join_tables(str(tmp_path), sets, str(tmp_path / "all.csv"))
    with open(tmp_path / "all.csv", newline="") as file:
        patients = {row["source"]: row["patient"] for row in csv.DictReader(file)}
    assert patients == {"a": "a/b-1", "a-b": "a-b/1"}


@pytest.mark.parametrize("name", ["", "a/b", " a", "none"])
def test_a_name_that_is_no_source_is_refused(tmp_path, name):
    sets, _ = made_sets(tmp_path, vindr={})
    with pytest.raises(UsageError, match=f"sets: '{name}' "):
        join_tables(str(tmp_path), {name: sets["vindr"]}, str(tmp_path / "all.csv"))
    assert not (tmp_path / "all.csv").exists()


def test_the_program_of_the_docs_and_its_conversion_run(tmp_path, monkeypatch):
    text = (ROOT / "docs/findings.md").read_text().partition("## Several public sets")[2]
    (program, *_), (lines, *_) = (
        re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "sh")
    )
    nih, chexpert = tmp_path / "xrays/nih", tmp_path / "xrays/CheXpert-v1.0-small"
    MAKERS["nih"](nih)
    (nih / "Data_Entry_2017.csv").rename(nih / "Data_Entry_2017_v2020.csv")
    MAKERS["chexpert"](chexpert)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "join.py", "exec"), {})
    line = next(line for line in lines.replace("\\\n", " ").splitlines() if "make_tfrecords" in line)
    done = run_command("tools.make_tfrecords", *shlex.split(line)[3:], "--size=8", "--workers=0")
    assert done.code == 0, done.output
    manifest = read_manifest("tfrecords")
    assert manifest.class_names == ("Cardiomegaly", "Edema", "Effusion")
    assert {*manifest.sources} == {"nih", "chexpert"}

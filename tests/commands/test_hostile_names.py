"""Names of files, classes and patients with everything that a terminal obeys, through every command."""

import json
import os
import pathlib
import shutil
import unicodedata
import urllib.parse

import embedded_sources
import pytest
from dicom_files import make_dicom
from in_process import Done, run_command
from sharder_fixtures import encoded, picture, save

from cxr_data.core.csv_table import csv_rows

# A title, a colour, C1, a carriage return, directions, a separator; then markup, and a line as of a command.
CONTROLS = "\x1b]0;title\x07\x1b[31m\x9b2J\x85\r\x7f\b\u202e\u2066\u2028"
NAME = f"{CONTROLS}<img src=x onerror=y>\nFORGED: line"
PLACE = NAME.replace("\r", "").replace("\n", " ")  # for what stands in a file of flags
CLASSES = (f"=1+1{NAME}", f"@b{NAME}", "-c")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("source") / NAME
    for number in range(30):
        save(root / CLASSES[number % 3] / f"=cmd|{number}{NAME}.png", encoded(picture(number, 64, 64)))
    for number, name in enumerate(CLASSES):
        copy = encoded(picture(number, 64, 64))  # which the sharder drops as a duplicate
        save(root / name / f"+copy{NAME}.png", copy)
        save(root / name / f"-damaged{NAME}.png", copy[:300])
        save(root / name / f"text{NAME}.txt", b"no picture")
        patient = f"Mary {number}" + CONTROLS.encode("latin-1", "replace").decode("latin-1")
        data = make_dicom(picture(50 + number, 64, 64), bits=8, patient=patient, Manufacturer=patient)
        save(root / name / f"dicom{NAME}.dcm", data)
        save(root / name / f"broken{NAME}.dcm", data[:700])
    not_utf8 = root / CLASSES[0] / os.fsdecode(b"\xff\xfe\x1b\n.png")
    not_utf8.write_bytes(encoded(picture(99, 64, 64)))
    return root


@pytest.fixture(scope="module")
def data(source, tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("data") / PLACE
    flags = ("--size=32", "--splits=train:0.6,validation:0.4", "--workers=1", "--noaudit")
    done = checked("cxr_data.commands.make_tfrecords", f"--source={source}", f"--output={directory}", *flags)
    assert done.code == 0, done.output
    assert "broken\\x1b]0;" in done.output
    return directory


def checked(module: str, *arguments: object) -> Done:
    """Runs a command, and asserts that what it writes is harmless, on each of its two streams."""
    done = run_command(module, *arguments)
    assert done.network == []
    for text in (done.stdout.decode(), done.stderr.decode()):
        controls = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
        assert controls <= set("\n\t"), text
        assert not [line for line in text.splitlines() if line.strip().startswith(("FORGED", "Traceback"))], (
            text
        )
        assert "Mary" not in text
        assert "Traceback" not in text
        assert "Warning" not in text
    return done


def assert_escaped(page: pathlib.Path) -> None:
    content = page.read_text()
    assert "&lt;img src=x onerror=y&gt;" in content
    assert "<img src=x" not in content


def test_the_commands_of_the_data_engine(source, data, tmp_path):
    damaged, foreign, folder = (tmp_path / f"{name}{NAME}" for name in ("damaged", "foreign", "folder"))
    shutil.copytree(data, damaged)
    foreign.mkdir()
    for shard in damaged.glob("*.tfrecord"):
        shutil.copy(shard, foreign / f"{shard.stem}{NAME}.tfrecord")
        shard.write_bytes(shard.read_bytes()[:-40] + b"x" * 40)
    for code, command, *arguments in (
        (2, "make_tfrecords", f"--source={source}", f"--output={folder}", "--group_regex=no"),
        (2, "make_tfrecords", f"--source={source}", f"--output={source}"),
        (2, "make_tfrecords", f"--source={source}", f"--output={folder}", f"--splits=a{NAME}"),
        (0, "verify_tfrecords", f"--data={data}"),
        (1, "verify_tfrecords", f"--data={damaged}"),
        (1, "verify_tfrecords", f"--data={source}"),
        (0, "audit_dataset", f"--data={data}", "--html", f"--output={folder}", "--cases=100"),
        (
            0,
            "index_tfrecords",
            f"--data={foreign}",
            "--size=32",
            "--classes=" + ",".join(f'"{name}"' for name in CLASSES),
        ),
        (0, "make_sample", f"--output={folder / 'sample'}", "--images=6"),
    ):
        done = checked(f"cxr_data.commands.{command}", *arguments)
        assert done.code == code, (command, done.output)
    assert_escaped(folder / "audit" / "index.html")


@pytest.mark.ci
@pytest.mark.usefixtures("tiny")
def test_the_commands_of_the_trainer(source, data, tmp_path):
    run, folder, grid = tmp_path / PLACE, tmp_path / f"folder{NAME}", tmp_path / f"grid{NAME}"
    grid.write_text(json.dumps({"head": ["8", "16"]}))
    short = (f"--data={data}", "--backbone=tiny", "--epochs=1", "--batch_size=4", "--weights=none")
    heads = (f"--data={folder / 'embeddings'}", "--backbone=none", "--epochs=1", "--batch_size=4")
    for code, command, *arguments in (
        (0, "main", *short, f"--run_dir={run}"),
        (2, "main", *short, f"--run_dir={run}"),
        (2, "main", *short, f"--run_dir={tmp_path}/a\n--seed=7"),
        (0, "evaluate", f"--run_dir={run}"),
        (1, "predict", f"--run_dir={run}", source, f"--output={folder}.csv", f"--panels={folder / 'panels'}"),
        (0, "explain", f"--run_dir={run}", "--check_images=4", "--filters=0"),
        (0, "export", f"--run_dir={run}", f"--output={folder / 'export'}"),
        (0, "embed", f"--data={data}", f"--run_dir={run}", f"--output={folder / 'embeddings'}"),
        (0, "search", *heads, "--trials=2", f"--run_dir={folder / 'search'}", "--dry_run"),
        (0, "search", *heads, f"--space={grid}", f"--run_dir={folder / 'search'}", "--dry_run"),
        (1, "transfer", f"--data={data}", "--backbone=tiny", f"--run_dir={folder / 'transfer'}", "--dry_run"),
        (2, "folds", f"--runs={folder / 'none'}", f"--output={folder / 'folds'}"),
        (0, "report", f"--run_dir={run}"),
        (1, "report", f"--run_dir={data}"),
        (0, "run", source, f"--output={folder / 'study'}", "--dry_run", "--weights=none"),
        (2, "ablate", *short, f"--run_dir={folder / 'grid'}", f"--grid={grid}", "--dry_run"),
    ):
        done = checked(f"cxr_train.{command}", *arguments)
        assert done.code == code, (command, done.output)
    assert_escaped(run / "report" / "index.html")
    text = pathlib.Path(f"{folder}.csv").read_bytes().decode(errors="surrogateescape")
    assert {row[0] for _, row in csv_rows(text)} >= {f"{CLASSES[2]}/=cmd|2{NAME}.png"}
    assert not [line for line in text.split("\n") if line.lstrip('"').startswith(("=", "+", "-", "@"))]


@pytest.mark.ci
def test_the_commands_that_compare_and_join_runs(tmp_path, monkeypatch):
    sources = (f"=nih{NAME}", f"K\u00f6ln, S\u00fcd@%{CONTROLS}", "+rare/site")
    monkeypatch.setattr(embedded_sources, "SOURCES", sources)
    monkeypatch.setattr(embedded_sources, "CLASSES", CLASSES)
    data, runs = tmp_path / "data", [tmp_path / f"fold{number}" for number in (1, 2)]
    embedded_sources.write_embedded_sources(data, patients=(130, 120, 60))
    heads = (f"--data={data}", "--backbone=none", "--epochs=1", "--xla=off")
    held_out = ",".join(map(urllib.parse.quote, sources[:2]))  # without the third, nothing is of class -c
    compared = ("--methods=erm,coral,prior_correction", "--draws=1", "--seeds=0", "--resamples=100")
    joined, transfer = tmp_path / f"joined{NAME}", tmp_path / f"transfer{PLACE}"
    for command, *arguments in (
        ("main", *heads, f"--run_dir={runs[0]}", "--batch_size=16", "--fold=1of2"),
        ("main", *heads, f"--run_dir={runs[1]}", "--batch_size=16", "--fold=2of2"),
        ("folds", f"--runs={runs[0]},{runs[1]}", f"--output={joined}", "--resamples=100"),
        ("transfer", *heads, *compared, f"--hold_out={held_out}", f"--run_dir={transfer}"),
    ):
        done = checked(f"cxr_train.{command}", *arguments)
        assert done.code == 0, (command, done.output)
    assert_escaped(joined / "report" / "index.html")
    assert_escaped(transfer / "transfer.html")
    for table in (joined / "label_issues.csv", transfer / "transfer.csv"):
        lines = table.read_bytes().decode().split("\n")
        assert not [line for line in lines if line.lstrip('"').startswith(("=", "+", "-", "@"))]

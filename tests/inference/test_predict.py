"""Files predicted one by one: the sharder's pixels, the challenge's file, damage that is not fatal."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from finding_tables import make_columns
from in_process import run_command
from PIL import Image
from project import ROOT
from runs import make_run, probabilities_of
from sharder_fixtures import encoded, make_source, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core.errors import DataError, UsageError
from cxr_data.input.batch import expand_image
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.index import read_split_fields
from cxr_train import predict
from cxr_train.evaluation.calibration import apply_temperature, move_thresholds
from cxr_train.inference import predicted, predictor
from cxr_train.inference.files import ImageFile, find_files, read_image
from cxr_train.inference.panels import PanelParts, panel


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"), images=18)


def shards(source, output, **options):
    return make_tfrecords(
        SharderConfig(str(source), str(output), splits="all:1", workers=0, quiet=True, **options)
    )


@pytest.fixture(scope="module")
def manifest(source, tmp_path_factory):
    return shards(source, tmp_path_factory.mktemp("shards"), size=32)


def assert_bit_identical(source, manifest):
    """Every record's pixels, against those of its file."""
    ids = [fields.id for fields in read_split_fields(manifest, "all")]
    stored = Pipeline(manifest).reader("all").read(np.arange(len(ids)))
    for name, pixels in zip(ids, stored, strict=True):
        ours = read_image(str(source / name), manifest.pixel_options)
        assert ours.dtype == pixels.dtype
        np.testing.assert_array_equal(ours, pixels, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "channels", "color"),
    [("float32", 3, "gray"), ("float16", 1, "gray"), ("uint8", 1, "gray"), ("uint8", 3, "keep")],
)
def test_inputs_are_the_records_pixels_bit_for_bit(source, tmp_path, dtype, channels, color):
    made = shards(source, tmp_path / "out", size=24, dtype=dtype, channels=channels, color=color)
    assert_bit_identical(source, made)


def test_dicom_files_are_the_records_pixels(shared, tmp_path):
    names = sorted(path for path in (shared / "data" / "dicom").rglob("*") if path.is_file())[:12]
    for number, path in enumerate(names):
        save(tmp_path / "source" / f"c{number % 2}" / path.name, path.read_bytes())
    made = shards(tmp_path / "source", tmp_path / "out", size=24)
    assert made.records
    assert_bit_identical(tmp_path / "source", made)


def test_folders_are_listed_in_order_and_hidden_files_left_out(tmp_path):
    for name in ("b/2.png", "b/1.png", "a.png", ".hidden", ".git/x.png"):
        save(tmp_path / "d" / name, b"x")
    found = find_files([str(tmp_path / "d" / "a.png"), str(tmp_path / "d")])
    assert [file.name for file in found] == [str(tmp_path / "d" / "a.png"), "a.png", "b/1.png", "b/2.png"]
    for arguments, message in (
        ([], "predict --run_dir=RUN_DIR "),
        ([str(tmp_path / "none")], f"{tmp_path}/none: "),
    ):
        with pytest.raises(UsageError, match=message):
            find_files(arguments)


def rows_of(*predicted: tuple[str, str]) -> list[dict]:
    return [{"file": name, "predicted": said, "probabilities": {}, "error": None} for name, said in predicted]


def test_the_submission_is_by_class_name_and_in_order_of_the_cases():
    text = predicted.to_submission(
        rows_of(("test_set/0002.jpg", "normal"), ("0010.jpg", "pneumonia"), ("0001.jpg", "covid"))
    )
    assert text == b"case,class\r\n0001.jpg,0\r\n0002.jpg,1\r\n0010.jpg,2\r\n"


ODD = ("a, b.jpg", 'the "first".jpg', "line\nbreak.jpg", "Icon\r", "caf\udce9.jpg", "<b>\u80ba.jpg")


def test_any_name_of_a_file_survives_the_csv():
    for made, line_end in ((predicted.to_csv, "\n"), (lambda rows, _: predicted.to_submission(rows), "\r\n")):
        rows = rows_of(*((name, "covid") for name in ODD))
        content = made(rows, ["covid"])
        text = content.decode("utf-8", "surrogateescape")
        back = list(csv.reader(io.StringIO(text, newline="")))
        assert sorted(row[0] for row in back[1:]) == sorted(ODD)
        assert {len(row) for row in back} == {len(back[0])}
        assert text.endswith(line_end)


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path):
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        save(tmp_path / name, b"x")
    names = [file.name for file in find_files([str(tmp_path / "a"), str(tmp_path / "b")])]
    assert names == [str(tmp_path / "a/1.png"), str(tmp_path / "b/1.png"), "2.png"]
    assert [file.name for file in find_files([str(tmp_path / "a"), str(tmp_path / "a")])] == ["1.png"] * 2


def test_a_link_to_a_folder_is_refused_as_its_files_would_be_missing(tmp_path):
    for name in ("elsewhere/1.png", "given/p1/2.png"):
        save(tmp_path / name, b"x")
    (tmp_path / "given/p1/3.png").symlink_to(tmp_path / "elsewhere/1.png")
    assert [file.name for file in find_files([str(tmp_path / "given")])] == ["p1/2.png", "p1/3.png"]
    (tmp_path / "given/p2").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="given/p2 .*link .*/elsewhere"):
        find_files([str(tmp_path / "given")])


def test_a_submission_without_a_class_for_every_case_is_refused():
    for rows, message in (
        (rows_of(("1.jpg", "covid"), ("a/1.jpg", "normal")), r"--submission: .*case 1\.jpg, .*a/1\.jpg"),
        (rows_of(("1.jpg", "sick")), "--submission: .*sick "),
        (
            [{"file": "1.jpg", "predicted": None, "error": "truncated: x"}],
            "1.jpg .*truncated",
        ),
    ):
        with pytest.raises(DataError, match=message):
            predicted.to_submission(rows)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_panel_shows_the_grey_levels_of_the_image(dtype, channels):
    gray = np.full([4, 4, channels], 51 if dtype is np.uint8 else 0.2, dtype)
    gray[0] *= 2
    row = {"file": "a.png", "probabilities": {"covid": 0.25, "normal": 0.75}}
    shown = panel(gray, row, PanelParts()).axes[0].images[0]
    np.testing.assert_allclose(np.unique(np.asarray(shown.get_array())), [0.2, 0.4], atol=1e-3)
    assert shown.get_clim() == (0, 1)


def test_the_probabilities_of_several_runs_are_averaged(manifest, tmp_path):
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", encoded(picture(number)))
    runs = [tmp_path / f"run{seed}" for seed in range(2)]
    models = [make_run(run, manifest, seed) for seed, run in enumerate(runs)]
    files = find_files([str(tmp_path / "in")])
    found = predictor.predict_files(files, runs[0], batch_size=2, others=runs[1:])
    pixels = np.stack([expand_image(read_image(file.path, manifest.pixel_options)) for file in files])
    expected = np.mean([probabilities_of(model, pixels) for model in models], axis=0)
    said = np.array([list(row["probabilities"].values()) for row in found])
    np.testing.assert_allclose(said, expected, atol=1e-6)
    assert [row["predicted"] for row in found] == [manifest.class_names[i] for i in expected.argmax(axis=1)]
    done = run_command("cxr_train.predict", f"--run_dir={','.join(map(str, runs))}", tmp_path / "in")
    assert done.code == 0, done.output
    assert done.stdout == predicted.to_csv(found, manifest.class_names)
    for word in (b"2 runs", b"thresholds"):
        assert word in done.stderr


def test_runs_that_cannot_be_averaged_are_refused_in_one_line(manifest, source, tmp_path):
    make_run(tmp_path / "run", manifest)
    make_run(tmp_path / "smaller", shards(source, tmp_path / "out", size=24))
    runs = f"--run_dir={tmp_path}/run,{tmp_path}/"
    for flags, says in (
        ([f"{runs}smaller"], "--run_dir: "),
        ([f"{runs}none"], "none"),
        ([f"{runs}run", "--calibrated"], "--calibrated: "),
        ([f"{runs}run", f"--panels={tmp_path}/panels"], "--panels: "),
    ):
        done = run_command("cxr_train.predict", *flags, source / "covid")
        assert done.code in (1, 2)
        assert says in done.stderr.decode().splitlines()[-1]
        assert done.stdout == b""


def test_a_temperature_changes_no_finding_that_is_predicted(tmp_path, monkeypatch):
    made = make_columns(tmp_path)
    data = make_tfrecords(
        SharderConfig(str(made.source), str(tmp_path / "out"), size=32, workers=0, quiet=True, **made.flags)
    )
    make_run(tmp_path / "run", data)
    monkeypatch.setattr(predict, "fitted_temperature", lambda *_: 2.5)

    def said(*flags: str) -> list[dict[str, str]]:
        done = run_command("cxr_train.predict", f"--run_dir={tmp_path}/run", made.source, *flags)
        assert done.code == 0, done.output
        return list(csv.DictReader(io.StringIO(done.stdout.decode())))

    scores = sorted(float(row["p_effusion"]) for row in said())
    threshold = scores[0] if scores[0] < 0.5 else scores[-1]  # which decides otherwise than 0.5
    monkeypatch.setattr(predict, "stored_thresholds", lambda _: {"effusion": threshold})
    own, cooler = said(), said("--calibrated")
    assert [row["predicted"] for row in cooler] == [row["predicted"] for row in own]
    assert [row["p_effusion"] for row in cooler] != [row["p_effusion"] for row in own]
    moved = move_thresholds({"effusion": threshold}, 2.5)["effusion"]
    for row in cooler:
        assert (float(row["p_effusion"]) > moved - 1e-6) == ("effusion" in row["predicted"])


def test_a_line_of_each_finding_calibrates_its_probability_and_changes_no_prediction(
    manifest, source, tmp_path, monkeypatch
):
    made = make_columns(tmp_path)
    data = make_tfrecords(
        SharderConfig(str(made.source), str(tmp_path / "out"), size=32, workers=0, quiet=True, **made.flags)
    )
    make_run(tmp_path / "run", data)
    monkeypatch.setattr(predict, "fitted_platt", lambda *_: {"effusion": (0.5, 1.0), "edema": None})

    def said(*flags: str):
        return run_command(
            "cxr_train.predict", f"--run_dir={tmp_path}/run", made.source, "--format=json", *flags
        )

    own, by_lines = said(), said("--calibrated=platt")
    assert own.code == by_lines.code == 0, by_lines.output
    assert b"Platt" in by_lines.stderr
    assert b"edema" in by_lines.stderr
    assert "platt" not in json.loads(own.stdout)
    assert json.loads(by_lines.stdout)["platt"] == {"effusion": [0.5, 1.0], "edema": None}
    before, after = (json.loads(done.stdout)["predictions"] for done in (own, by_lines))
    assert [row["predicted"] for row in after] == [row["predicted"] for row in before]
    for one, other in zip(before, after, strict=True):
        p, q = (row["probabilities"] for row in (one, other))
        assert q["edema"] == p["edema"]
        logit = np.log(p["effusion"] / (1 - p["effusion"]))
        assert q["effusion"] == pytest.approx(1 / (1 + np.exp(-(0.5 * logit + 1))), rel=1e-4)
    moved = move_thresholds({"effusion": 0.5, "edema": 0.3}, 1.0, {"effusion": (0.5, 1.0), "edema": None})
    assert moved == pytest.approx({"effusion": 1 / (1 + np.exp(-1)), "edema": 0.3})
    make_run(tmp_path / "classes", manifest)
    refused = run_command("cxr_train.predict", f"--run_dir={tmp_path}/classes", "--calibrated=platt", source)
    assert refused.code == 2
    assert "--calibrated=platt" in refused.stderr.decode()


@pytest.mark.ci
def test_the_command(manifest, tmp_path):
    model = make_run(tmp_path / "run", manifest)
    for number in range(1, 12):
        save(tmp_path / "in" / f"{number:04d}.jpg", encoded(picture(number), "JPEG"))
    save(tmp_path / "in" / "0003.jpg", encoded(Image.fromarray(picture(3)).convert("RGBA")))
    whole = encoded(picture(5), "JPEG")
    save(tmp_path / "bad" / "cut.jpg", whole[:-60])

    def run(*arguments: object) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", "cxr_train.predict", f"--run_dir={tmp_path}/run", *map(str, arguments)]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    result = run(
        tmp_path / "in",
        f"--submission={tmp_path}/submission.csv",
        f"--panels={tmp_path}/panels",
        "--batch_size=4",
    )
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["file"] for row in rows] == [f"{number:04d}.jpg" for number in range(1, 12)]
    pixels = [
        expand_image(read_image(str(tmp_path / "in" / row["file"]), manifest.pixel_options)) for row in rows
    ]
    said = np.array([[float(row[f"p_{name}"]) for name in manifest.class_names] for row in rows])
    np.testing.assert_allclose(said, probabilities_of(model, np.stack(pixels)), atol=1e-6)
    lines = (tmp_path / "submission.csv").read_bytes().split(b"\r\n")
    assert lines[0] == b"case,class"
    number = predicted.SUBMISSION_CLASSES[rows[0]["predicted"]]
    assert lines[1] == f"0001.jpg,{number}".encode()
    assert len(list((tmp_path / "panels").iterdir())) == 11
    assert Image.open(tmp_path / "panels" / "00000_0001.png").size[0] > 300
    assert "11 of 11 files predicted" in result.stderr
    assert "diagnosis" in result.stderr

    result = run(tmp_path / "in" / "0001.jpg", tmp_path / "bad", f"--output={tmp_path}/out.json")
    assert result.returncode == 1
    document = json.loads((tmp_path / "out.json").read_text())
    good, bad = document["predictions"]
    assert good["predicted"] == rows[0]["predicted"]
    assert bad["predicted"] is None
    assert bad["error"].startswith("truncated: ")
    assert f"not predicted: {tmp_path}/bad/cut.jpg: truncated" in result.stderr
    assert "1 of 2 files predicted" in result.stderr
    assert "diagnosis" in document["notice"]
    assert document["temperature"] == 1.0

    # At a temperature: the softmax of the logits over it, and the same classes.
    files = [ImageFile(row["file"], str(tmp_path / "in" / row["file"])) for row in rows]
    cooler = predictor.predict_files(files, tmp_path / "run", batch_size=4, temperature=2.5)
    assert [row["predicted"] for row in cooler] == [row["predicted"] for row in rows]
    found = np.array([list(row["probabilities"].values()) for row in cooler])
    np.testing.assert_allclose(found, apply_temperature(said, 2.5), atol=1e-6)

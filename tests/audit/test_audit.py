"""The audit from shards to findings, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from audit_fixtures import chest, synthetic
from in_process import run_command
from PIL import Image
from sharder_fixtures import content_of, encoded, save
from shards import random_images, write_shards

from cxr_data.audit import audit, findings, pictures
from cxr_data.audit.findings import Finding
from cxr_data.audit.leakage import find_leakage, pairs_of
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core.errors import DataError, UsageError
from cxr_data.images import measure
from cxr_data.images.decode import decode_with_facts, jpeg_quality
from cxr_data.images.guarded import USUAL
from cxr_data.images.preprocess import small_image
from cxr_data.images.resize import resize_image
from cxr_data.records import manifest


def convert(source, output, **options):
    settings = {"size": 64, "workers": 0, "quiet": True, "shard_mb": 0.5, **options}
    return make_tfrecords(SharderConfig(str(source), str(output), **settings))


def command(*flags):
    return run_command("tools.audit_dataset", *flags).completed


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Every covid picture is a JPEG of an odd size; a patient and a picture are in two classes."""
    root = tmp_path_factory.mktemp("source")
    for number in range(60):
        covid = number % 3 == 0
        name = f"{('covid', 'normal', 'pneumonia')[number % 3]}/{10000000 + number // 6:08d}_{number:03d}.png"
        side = 90 + number % 7 if covid else 128
        save(root / name, encoded(chest(number, side), "JPEG" if covid else "PNG"))
    save(root / "normal/again.png", encoded(chest(2, 128), "TIFF"))
    return root


@pytest.fixture(scope="module")
def data(source, tmp_path_factory):
    return convert(source, tmp_path_factory.mktemp("data") / "out").directory


# -- features ----------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", range(1, 101, 3))
def test_jpeg_quality_is_read_from_the_tables(quality):
    _, facts = decode_with_facts(encoded(chest(0, 32), "JPEG", quality=quality), "gray", 10**6)
    with Image.open(__import__("io").BytesIO(encoded(chest(0, 32), "JPEG", quality=quality))) as image:
        table = tuple(image.quantization[0])
    again = Image.fromarray(chest(0, 32))
    assert jpeg_quality(table) == facts.quality
    with Image.open(__import__("io").BytesIO(encoded(again, "JPEG", quality=facts.quality))) as image:
        assert tuple(image.quantization[0]) == table


@pytest.mark.parametrize(
    ("mode", "kind", "bits"),
    [("L", "PNG", 8), ("RGB", "JPEG", 8), ("I;16", "PNG", 16), ("1", "PNG", 1), ("RGBA", "PNG", 8)],
)
def test_facts_of_a_file(mode, kind, bits):
    gray = Image.fromarray(chest(0, 48)).resize((40, 48))
    image = Image.fromarray(np.asarray(gray, np.uint16) * 257) if mode == "I;16" else gray.convert(mode)
    _, facts = decode_with_facts(encoded(image, kind), "gray", 10**6)
    assert (facts.width, facts.height, facts.format, facts.bits) == (40, 48, kind, bits)
    assert facts.mode == mode


def test_borders_text_and_sharpness_are_measured():
    plain = chest(1, 120)
    boxed = plain.copy()
    boxed[:12] = boxed[-18:] = 0
    row = measure.row_of(boxed)
    assert row["border_rows"] == pytest.approx(30 / 120)
    assert (row["border_columns"], measure.row_of(plain)["border_rows"]) == (0, 0)
    assert measure.row_of(np.ascontiguousarray(boxed.T))["border_columns"] == pytest.approx(30 / 120)
    texted = plain.copy()
    texted[2:12:2, -12:-2:4] = 255
    texted[2:12:2, -10:-2:4] = 0
    corners = measure.row_of(texted)["corners"]
    assert corners.argmax() == 1
    assert corners[1] > 5 * measure.row_of(plain)["corners"].max()
    soft = np.asarray(Image.fromarray(plain).resize((40, 40)).resize((120, 120), Image.Resampling.BICUBIC))
    assert measure.row_of(soft)["sharpness"] < 0.8 * measure.row_of(plain)["sharpness"]
    assert measure.row_of(np.full((40, 40), 3, np.uint8))["border_rows"] == 1


def test_rows_survive_the_ledger():
    rows = [measure.row_of(chest(number, 48)) for number in range(3)]
    np.testing.assert_array_equal(measure.decode_rows(measure.encode_rows(rows)), np.array(rows))


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "float16"}, {"dtype": "uint8", "channels": 1}, {"color": "keep"}]
)
def test_records_say_of_the_pixels_what_the_conversion_did(source, tmp_path, options):
    made = convert(source, tmp_path / "out", audit=False, **options)
    with_features = pictures.pictures_of_shards(made, quiet=True)
    bare = manifest.Manifest(**{**vars(made), "features_sha256": ""})
    without = pictures.pictures_of_shards(bare, quiet=True)
    assert (with_features.has_files, without.has_files) == (True, False)
    for name in ("crc32c", "border_rows", "border_columns", "sharpness", "corners", "thumbnail"):
        np.testing.assert_array_equal(with_features.rows[name], without.rows[name])
    again = pictures.with_files(without, made, str(source), USUAL, quiet=True)
    np.testing.assert_array_equal(again.rows, with_features.rows)
    for position in (0, len(again) - 1):
        content = (source / again.ids[position]).read_bytes()
        np.testing.assert_array_equal(again.image(position), small_image(content, made.pixel_options))


# -- leakage -----------------------------------------------------------------------------------


def test_patients_and_pictures_on_two_sides():
    own = synthetic(0, images=40)
    splits = ["train"] * 30 + ["test"] * 10
    groups = [*own.groups]
    groups[39] = groups[0]
    own.rows["thumbnail"][38] = own.rows["thumbnail"][1]
    own.labels[38] = (own.labels[1] + 1) % 3
    own = pictures.Pictures(**{**vars(own), "splits": splits, "groups": groups})
    found = {finding.name: finding for finding in find_leakage(own, pairs_of(own))}
    (patient,) = found["patients_in_two_splits"].evidence
    assert patient == {
        "patient": groups[0],
        "splits": "test 1, train 2",
        "ids": [own.ids[i] for i in (0, 1, 39)],
    }
    (pair,) = found["pictures_in_two_splits"].evidence
    assert {pair["first"], pair["second"]} == {own.ids[1], own.ids[38]}
    assert pair["exact"]
    assert found["pictures_in_two_classes"].value == 1
    assert "repeated_pictures" not in found


def test_a_second_dataset_is_compared(source, data, tmp_path):
    save(tmp_path / "other/a/x.png", encoded(chest(7, 128)))
    save(tmp_path / "other/b/y.png", encoded(chest(999, 128)))
    save(tmp_path / "other/b/broken.png", b"text")
    for against in (tmp_path / "other", convert(tmp_path / "other", tmp_path / "shards").directory):
        made = audit.audit_dataset(audit.AuditConfig(data, against=str(against), quiet=True))
        (second,) = [f for f in made.found if f.name == "pictures_in_second_dataset"]
        assert [case["second"] for case in second.evidence] == ["a/x.png"]
        assert second.evidence[0]["exact"]
        position = list(made.other.ids).index("a/x.png")
        np.testing.assert_array_equal(made.other.image(position), resize_image(chest(7, 128), 64))


# -- the whole ---------------------------------------------------------------------------------


def test_the_sharder_audits(source, data):
    document = audit.read_audit(data)
    names = {finding["name"]: finding for finding in document["findings"]}
    assert names["size"]["value"] == 1
    assert "separates covid perfectly" in names["size"]["text"]
    assert names["patients_in_two_classes"]["value"] == 10
    (pair,) = names["pictures_in_two_classes"]["evidence"]
    assert {pair["first"], pair["second"]} == {"normal/again.png", "pneumonia/10000000_002.png"}
    assert document["findings"][0]["kind"] == "leakage"
    assert document["notes"] == []
    text = audit.audit_summary(data)
    assert f"python -m tools.audit_dataset --data={data}" in text
    again = audit.audit_dataset(audit.AuditConfig(data, quiet=True))
    assert json.loads(json.dumps(audit.as_document(again))) == document


def test_no_audit_if_it_is_not_wanted(source, tmp_path):
    made = convert(source, tmp_path / "out", audit=False)
    assert not Path(made.directory, "audit.json").exists()
    before = content_of(Path(made.directory))
    convert(source, tmp_path / "out")
    after = content_of(Path(made.directory))
    assert set(after) - set(before) == {"audit.json"}
    assert {name: after[name] for name in before} == before


def test_shards_of_others_are_audited_by_their_records(tmp_path):
    made = write_shards(tmp_path, {"train": random_images(12, size=40)})
    found = audit.audit_dataset(audit.AuditConfig(made.directory, quiet=True))
    assert found.found == ()
    assert any("--source=DIR_OR_CSV looks at them" in note for note in found.notes)
    assert any("no shortcut " in note for note in found.notes)
    save(tmp_path / "in/a/x.png", encoded(chest(0, 40)))
    with pytest.raises(DataError, match=r"12 of 12 .*train/0\.png"):
        audit.audit_dataset(audit.AuditConfig(made.directory, str(tmp_path / "in"), quiet=True))


def test_damaged_files_are_named(data, source, tmp_path):
    made = convert(source, tmp_path / "out")
    save(tmp_path / "out/features.npy", b"x")
    with pytest.raises(DataError, match=r"features\.npy "):
        audit.audit_dataset(audit.AuditConfig(made.directory, quiet=True))
    save(tmp_path / "out/audit.json", b"[]")
    with pytest.raises(DataError, match=r"audit\.json "):
        audit.read_audit(made.directory)


def test_findings_are_ranked_and_fail():
    def finding(kind, value):
        return Finding(kind, f"{kind}{value}", value, "text")

    kinds = [("repeats", 9), ("shortcut", 0.7), ("two_classes", 3), ("shortcut", 0.95), ("leakage", 1)]
    found = findings.ranked(finding(kind, value) for kind, value in kinds)
    assert [f.name for f in found] == ["leakage1", "shortcut0.95", "two_classes3", "shortcut0.7", "repeats9"]
    rules = findings.parse_fail_on(["shortcut:0.9", "repeats"])
    assert [f.name for f in findings.failing(found, rules)] == ["shortcut0.95", "repeats9"]
    for wrong in ("leaks", "shortcut:much"):
        with pytest.raises(UsageError, match=f"--fail_on={wrong}"):
            findings.parse_fail_on([wrong])


def test_the_command(data, tmp_path):
    done = command(f"--data={data}", f"--output={tmp_path}", "--fail_on=leakage,shortcut:0.9", "--html")
    assert done.returncode == 1, done.stderr
    assert "--fail_on=leakage: 1 pair of pictures" in done.stderr
    assert "size alone (of the file) separates covid perfectly" in done.stdout
    assert json.loads((tmp_path / "audit.json").read_text())["schema"] == audit.SCHEMA
    for name in ("pairs", "features"):
        with Image.open(tmp_path / f"audit/{name}.png") as image:
            assert image.size[0] > 500
    assert f"written: {tmp_path}/audit/index.html" in done.stdout
    assert (tmp_path / "audit/index.html").read_text().count("data:image/png;base64") == 2
    fine = command(f"--data={data}", f"--output={tmp_path}", "--fail_on=repeats", "--nopictures")
    assert fine.returncode == 0
    assert not list((tmp_path / "audit").iterdir())
    wrong = command(f"--data={data}", "--fail_on=all")
    assert (wrong.returncode, len(wrong.stderr.strip().splitlines())) == (2, 1)


def test_what_the_command_cannot_do_is_one_line(data, source, tmp_path):
    (tmp_path / "file").write_text("")
    before = content_of(source)
    for flags, code, message in (
        ((f"--source={source}", f"--output={source}"), 2, f"--output={source} "),
        ((f"--output={tmp_path / 'file'}",), 2, f"--output={tmp_path}/file: "),
        ((f"--output={tmp_path / 'file' / 'out'}",), 2, f"--output={tmp_path}/file/out: "),
        (("--output=/proc/none/out",), 1, "--output=/proc/none/out: "),
        (("--against=nowhere", f"--output={tmp_path}"), 2, "--against=nowhere: "),
    ):
        done = command(f"--data={data}", *flags)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr
    assert content_of(source) == before


def test_the_real_sample(shared, tmp_path):
    """Size alone names covid there, and three patients are in two classes."""
    made = convert(shared / "data" / "cxr_sample", tmp_path / "out", dtype="uint8", channels=1, workers=2)
    document = audit.read_audit(made.directory)
    names = {finding["name"]: finding for finding in document["findings"]}
    assert names["size"]["value"] == 1
    assert "1024x1024: covid 0 of 74, normal 100 of 100, pneumonia 100 of 100" in names["size"]["text"]
    patients = [case["patient"] for case in names["patients_in_two_classes"]["evidence"]]
    assert patients == ["00002633", "00003053", "00003369"]
    assert not any(name.startswith("pictures_in") for name in names)

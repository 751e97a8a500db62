"""The synthetic sample of several findings: pictures, and a table that make_tfrecords reads."""

import csv

import numpy as np
import pytest

from cxr_data.convert.config import SharderConfig
from cxr_data.core.errors import UsageError
from cxr_data.sources.discover import discover_findings
from cxr_data.synthetic import phantom, sample
from cxr_data.synthetic.sample import SampleConfig, make_sample, plan_findings


def test_the_sharder_reads_the_table_of_a_sample(tmp_path):
    output = tmp_path / "sample"
    plan = make_sample(SampleConfig(output, images=24, sizes=(40,), findings=True))
    table = output / sample.TABLE_NAME
    tables = SharderConfig(str(output), "out", labels="columns", table=(str(table),)).tables
    assert tables is not None
    found = discover_findings(str(output), tables)
    assert found.findings == phantom.SEVERAL_FINDINGS
    assert not found.quarantined
    by_id = {item.id: item for item in found.items}
    assert by_id.keys() == {image.path for image in plan}
    for image in plan:
        item = by_id[image.path]
        assert item.group == f"{image.patient:08d}"
        for name, value in zip(found.findings, item.labels, strict=True):
            assert value in (-1, -2, int(name in image.findings))
    assert {item.source for item in found.items} == {"north", "south"}
    assert {value for item in found.items for value in item.labels} == {1, 0, -1, -2}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        make_sample(SampleConfig(tmp_path / name, images=6, sizes=(40,), findings=True, seed=3))
    first, second = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("one", "two")
    )
    assert first == second
    with (tmp_path / "one" / sample.TABLE_NAME).open() as file:
        assert len(list(csv.reader(file))) == 7


def test_findings_are_drawn_apart_from_each_other():
    anatomy = phantom.Anatomy.random(np.random.default_rng(0))
    pictures = {
        findings: phantom.draw_findings(anatomy, findings, np.random.default_rng(1))
        for findings in ((), ("Cardiomegaly",), ("Consolidation",), ("Cardiomegaly", "Ground glass"))
    }
    for number, (findings, picture) in enumerate(pictures.items()):
        assert picture.shape == (phantom.CANVAS, phantom.CANVAS), findings
        assert all(np.abs(picture - other).max() > 0.05 for other in list(pictures.values())[:number])


def test_pictures_have_none_one_or_several_findings(tmp_path):
    plan = plan_findings(SampleConfig(tmp_path, images=600, findings=True))
    assert {len(image.findings) for image in plan} == {0, 1, 2, 3}


def test_unlabelled_pictures_belong_to_a_sample_of_classes(tmp_path):
    with pytest.raises(UsageError, match="--test_images=3: "):
        SampleConfig(tmp_path, findings=True, test_images=3)

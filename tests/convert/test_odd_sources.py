"""Random and odd sources through the whole sharder: the counts always add up."""

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sharder_fixtures import content_of, encoded, make_source, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core.errors import DataError
from cxr_data.records.quarantine_file import read_quarantine
from cxr_data.records.verify import verify_dataset


def run(source, output, **options):
    settings_ = {"size": 8, "workers": 0, "quiet": True, "shard_mb": 0.005, **options}
    return make_tfrecords(SharderConfig(str(source), str(output), **settings_))


FILES = st.lists(
    st.tuples(
        st.sampled_from("abc"),  # class
        st.integers(0, 6),  # patient
        st.integers(0, 12),  # picture: repeats are duplicates, or labels that contradict
        st.sampled_from(["whole", "whole", "whole", "truncated", "text", "empty", "flat", "jpeg"]),
    ),
    min_size=1,
    max_size=30,
)


def content(number, state):
    whole = encoded(picture(number, 12, 12))
    return {
        "whole": whole,
        "jpeg": encoded(picture(number, 12, 12), "JPEG"),
        "truncated": whole[:-25],
        "text": b"text %d" % number,
        "empty": b"",
        "flat": encoded(np.full((5, 5), number, np.uint8)),
    }[state]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files=FILES, seed=st.integers(0, 3), policy=st.sampled_from(["exclude", "keep"]))
def test_counts_add_up(tmp_path_factory, files, seed, policy):
    root = tmp_path_factory.mktemp("random")
    for position, (label, patient, number, state) in enumerate(files):
        save(root / f"in/{label}/p{patient}_{position}.png", content(number, state))
    try:
        made = run(root / "in", root / "out", seed=seed, duplicates=policy, group_regex=r"(p\d+)_")
    except DataError as error:
        assert "not one of" in str(error) or "are excluded" in str(error)
        return
    left_out = read_quarantine(made.directory)
    counts = made.source_counts
    assert counts["discovered"] == len(files)
    assert counts["discovered"] == counts["written"] + counts["quarantined"] + counts["duplicates"]
    assert counts["quarantined"] + counts["duplicates"] == len(left_out)
    assert verify_dataset(made.directory, 1).problems == ()  # among others: no group in two splits


def test_file_names_of_any_bytes(tmp_path):
    source = make_source(tmp_path / "in", 10)
    for number, name in enumerate([b"caf\xe9.png", "é ü.png".encode(), b"a b\n.png", b'quote".png']):
        save(source / "covid" / os.fsdecode(name), encoded(picture(200 + number)))
    save(source / "covid" / os.fsdecode(b"bad\xff.png"), b"text")
    made = run(source, tmp_path / "out", workers=1)
    assert made.records == 14
    assert verify_dataset(made.directory, 1).problems == ()
    run(source, tmp_path / "out")


@pytest.mark.ci
def test_a_remote_source_gives_the_same_shards(tmp_path):
    """`file://` goes the way of `s3://`: through tf.io.gfile."""
    pytest.importorskip("tensorflow_io")
    source = make_source(tmp_path / "in", 12)
    run(source, tmp_path / "local")
    run(f"file://{source}", tmp_path / "remote")
    remote, local = content_of(tmp_path / "remote"), content_of(tmp_path / "local")
    audits = [json.loads(content.pop("audit.json")) for content in (remote, local)]
    assert remote == local
    assert audits[0].pop("conversion")["source"] == f"file://{source}"
    assert audits[1].pop("conversion")["source"] == str(source)
    assert audits[0] == audits[1]


def test_a_remote_source_that_is_not_there(tmp_path):
    pytest.importorskip("tensorflow_io")
    with pytest.raises(DataError, match=f"file://{tmp_path}/nowhere"):
        run(f"file://{tmp_path}/nowhere", tmp_path / "out")


def test_unlabelled_images_are_not_bad_ones(tmp_path):
    for number in range(8):
        save(tmp_path / f"in/train/{'ab'[number % 2]}/{number}.png", encoded(picture(number)))
        save(tmp_path / f"in/test_set/{number}.png", encoded(picture(100 + number)))
    made = run(tmp_path / "in", tmp_path / "out", max_bad=0.0)
    assert made.source_counts == {
        "discovered": 16,
        "written": 8,
        "quarantined": 8,
        "duplicates": 0,
        "excluded": 0,
    }

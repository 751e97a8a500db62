"""A data set of somebody else: whatever its manifest and its tables claim, opening it gives one line."""

import dataclasses
import hashlib
import io
import json
import os
import tracemalloc

import numpy as np
import pytest
from shards import random_images, write_shards

from cxr_data.core.errors import DataError
from cxr_data.images.measure import FEATURES_DTYPE
from cxr_data.records.index import read_features, read_index, write_features, write_index
from cxr_data.records.layout import FEATURES_NAME, INDEX_NAME, MANIFEST_NAME
from cxr_data.records.manifest import read_manifest, write_manifest


@pytest.fixture
def made(tmp_path):
    return write_shards(tmp_path, {"train": random_images(6), "validation": random_images(3)})


def refused(call):
    """Returns the one line with which `call` is refused; it may use no more than 50 MB for that."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as raised:
            call()
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert str(raised.value).isprintable()
    return str(raised.value)


def changed(document, path, value):
    *parents, last = path
    place = document
    for name in parents:
        place = place[name]
    place[last] = value


HUGE = 2**60
FIRST = ("shards", 0)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("size",), HUGE, "size"),
        (("size",), 0, "size"),
        (("size",), "360", "size"),
        (("size",), True, "size"),
        (("channels",), 2, "channels"),
        (("channels",), [], "channels"),
        (("dtype",), "object", "dtype"),
        (("dtype",), {}, "dtype"),
        (("value_range",), [0, 7], "value_range"),
        (("class_names",), [], "class_names"),
        (("class_names",), "abc", "class_names"),
        (("class_names", 0), 5, "class_names[0]"),
        (("class_names", 0), "normal", "class_names"),
        (("class_names", 0), "a\0b", "class_names[0]"),
        (("class_names", 0), "a" * 1025, "class_names[0]"),
        (("mean",), 0.5, "mean"),
        (("mean",), [0.5, 0.5], "mean"),
        (("mean", 0), float("nan"), "mean[0]"),
        (("std", 0), None, "std[0]"),
        (("seed",), 2**64, "seed"),
        (("counts",), [], "counts"),
        (("counts", "train"), 3, "counts.train"),
        (("counts", "train", "covid"), -2, "counts.train.covid"),
        (("counts", "train", "covid"), 2.0, "counts.train.covid"),
        (("counts", "train"), {"covid": 6}, "counts.train"),
        (("source_counts",), {"written": "6"}, "source_counts.written"),
        (("versions",), {"cxr": {}}, "versions.cxr"),
        (("shards",), [], "shards"),
        (("shards",), {}, "shards"),
        ((*FIRST,), None, "shards[0]"),
        ((*FIRST, "records"), HUGE, "counts"),
        ((*FIRST, "records"), -1, "shards[0].records"),
        ((*FIRST, "bytes"), -1, "shards[0].bytes"),
        ((*FIRST, "bytes"), 10, "shards[0].records"),
        ((*FIRST, "name"), "../x.tfrecord", "shards[0].name"),
        ((*FIRST, "name"), "/etc/passwd", "shards[0].name"),
        ((*FIRST, "name"), "a\0b", "shards[0].name"),
        ((*FIRST, "name"), "..", "shards[0].name"),
        ((*FIRST, "split"), "../x", "shards[0].split"),
        ((*FIRST, "sha256"), 5, "shards[0].sha256"),
        (("index_sha256",), None, "index_sha256"),
        (("notes",), {}, "notes"),
        (("schema",), ["cxr"], "schema"),
    ],
)
def test_a_field_of_the_manifest(made, path, value, field):
    place = os.path.join(made.directory, MANIFEST_NAME)
    with open(place) as file:
        document = json.load(file)
    changed(document, path, value)
    with open(place, "w") as file:
        json.dump(document, file)
    text = refused(lambda: read_manifest(made.directory))
    assert place in text
    assert field in text


@pytest.mark.parametrize(("notes", "tool"), [([], "make_tfrecords"), (["a scan"], "index_tfrecords")])
def test_the_way_out_of_a_damaged_manifest_is_that_of_its_writer(made, notes, tool):
    place = os.path.join(made.directory, MANIFEST_NAME)
    with open(place) as file:
        document = json.load(file)
    for wrong in ({"size": 0}, {"schema": "other"}):
        with open(place, "w") as file:
            json.dump(document | {"notes": notes} | wrong, file)
        assert tool in refused(lambda: read_manifest(made.directory))


@pytest.mark.parametrize(("notes", "tool"), [((), "make_tfrecords"), (("a scan",), "index_tfrecords")])
def test_so_is_that_of_damaged_tables_and_shards(made, notes, tool):
    made = dataclasses.replace(made, notes=notes, features_sha256="0" * 64)
    write_manifest(made)
    with open(os.path.join(made.directory, FEATURES_NAME), "wb") as file:
        file.write(b"x")
    assert tool in refused(lambda: read_index(dataclasses.replace(made, index_sha256="0" * 64)))
    assert tool in refused(lambda: read_index(dataclasses.replace(made, shards=made.shards[:1])))
    assert tool in refused(lambda: read_features(made))
    os.truncate(made.path(made.shards[0]), 7)
    assert tool in refused(lambda: read_manifest(made.directory))
    os.remove(made.path(made.shards[0]))
    assert tool in refused(lambda: read_manifest(made.directory))


@pytest.mark.parametrize("name", ["class_names", "shards", "counts", "index_sha256", "size"])
def test_a_field_that_the_manifest_lacks(made, name):
    place = os.path.join(made.directory, MANIFEST_NAME)
    with open(place) as file:
        document = json.load(file)
    del document[name]
    with open(place, "w") as file:
        json.dump(document, file)
    assert f"{name}: is missing" in refused(lambda: read_manifest(made.directory))


@pytest.mark.parametrize("content", [b"[" * 10**6, b'{"schema":' * 10**5, b'{"schema": "\x00"}', b"\xff\xfe"])
def test_a_manifest_that_no_parser_takes(made, content):
    with open(os.path.join(made.directory, MANIFEST_NAME), "wb") as file:
        file.write(content)
    assert MANIFEST_NAME in refused(lambda: read_manifest(made.directory))


def npy(header, body=b"", version=b"\x01\x00"):
    header = header.encode("latin1")
    length = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + length + header + body


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    return file.getvalue()


TABLES = {
    "an object array": pickled(),
    "2^60 rows": npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({HUGE},), }}\n"),
    "2^60 columns": npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': (1, {HUGE}), }}\n", b"x" * 8),
    "a negative shape": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }\n"),
    "rows of 2^31 bytes": npy("{'descr': '|V2147483647', 'fortran_order': False, 'shape': (9,), }\n"),
    "an odd type": npy("{'descr': [('a', 7)], 'fortran_order': False, 'shape': (1,), }\n"),
    "a header of brackets": npy("(" * 9000),
    "a header of signs": npy("-" * 9000 + "1"),
    "a header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
    "a number of Python 2": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (9L,), }\n", bytes(72)),
    "version 9": npy("{}", version=b"\x09\x00"),
    "no bytes": b"",
    "garbage": bytes(range(256)),
    "the wrong type": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (9,), }\n", bytes(72)),
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("name", [INDEX_NAME, FEATURES_NAME])
def test_a_table_that_is_none(made, name, content):
    """Its checksum is right: whoever writes the table writes the manifest too."""
    place = os.path.join(made.directory, name)
    with open(place, "wb") as file:
        file.write(content)
    sha256 = hashlib.sha256(content).hexdigest()
    field = "index_sha256" if name == INDEX_NAME else "features_sha256"
    manifest = dataclasses.replace(made, **{field: sha256})
    read = read_index if name == INDEX_NAME else read_features
    assert place in refused(lambda: read(manifest))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("label", 3),
        ("label", -1),
        ("label", 2**31 - 1),
        ("record", -1),
        ("record", 2**63 - 1),
        ("length", 2**32 - 1),
        ("length", 0),
        ("payload", 0),
        ("payload", -(2**63)),
        ("payload", 2**63 - 1),
    ],
)
def test_a_row_of_the_index(made, field, value):
    index = read_index(made)
    index[field][7] = value
    write_manifest(dataclasses.replace(made, index_sha256=write_index(made.directory, index)))
    text = refused(lambda: read_index(read_manifest(made.directory)))
    assert f"{INDEX_NAME}: row 7" in text


def test_more_records_than_rows_make_no_room(made):
    shards = (dataclasses.replace(made.shards[0], records=HUGE), *made.shards[1:])
    assert INDEX_NAME in refused(lambda: read_index(dataclasses.replace(made, shards=shards)))


def test_features_of_fewer_records(made):
    sha256 = write_features(made.directory, np.zeros(2, FEATURES_DTYPE))
    text = refused(lambda: read_features(dataclasses.replace(made, features_sha256=sha256)))
    assert FEATURES_NAME in text

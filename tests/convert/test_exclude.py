"""What the user leaves out: by name, by what an audit found, and to balance classes."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from audit_fixtures import chest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharder_fixtures import content_of, encoded, make_source, save

from cxr_data.audit import audit
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.convert.exclude import balance
from cxr_data.core.errors import DataError, UsageError
from cxr_data.records.quarantine_file import read_quarantine
from cxr_data.records.verify import verify_dataset
from cxr_data.sources.discover import discover_images
from cxr_data.sources.item import Item


def run(source, output, **options):
    settings = {"size": 32, "workers": 0, "quiet": True, "shard_mb": 0.05, "audit": False, **options}
    return make_tfrecords(SharderConfig(str(source), str(output), **settings))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"), 30)


def reasons(made):
    return {entry.id: (entry.reason, entry.detail) for entry in read_quarantine(made.directory)}


def test_a_list_leaves_images_out_with_its_reasons(source, tmp_path):
    path = source.resolve() / "covid/image009.jpg"
    wanted = f"# seen twice\ncovid/image000.png\trotated by 90 degrees\n\n{path}\n"
    listed = save(tmp_path / "list.txt", wanted.encode())
    made = run(source, tmp_path / "out", exclude=str(listed))
    assert reasons(made) == {
        "covid/image000.png": ("excluded", "rotated by 90 degrees"),
        "covid/image009.jpg": ("excluded", "named in list.txt"),
    }
    assert made.source_counts == {
        "discovered": 30, "written": 28, "quarantined": 0, "duplicates": 0, "excluded": 2
    }  # fmt: skip
    assert verify_dataset(made.directory, 1).problems == ()
    before = content_of(tmp_path / "out")
    run(source, tmp_path / "out", exclude=str(listed))
    assert content_of(tmp_path / "out") == before
    listed.write_text("covid/image000.png\n")
    with pytest.raises(DataError, match=f"{tmp_path / 'out'}.*exclude .*--overwrite"):
        run(source, tmp_path / "out", exclude=str(listed))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"normal/gone.png\n", r"list line 1: 'normal/gone\.png'"),
        (b"\xff\xfe\n", "list .*UTF-8"),
    ],
)
def test_a_wrong_list_is_one_line(source, tmp_path, content, message):
    listed = save(tmp_path / "list", content)
    with pytest.raises(DataError, match=message):
        run(source, tmp_path / "out", exclude=str(listed))
    with pytest.raises(UsageError, match=f"--exclude={tmp_path}/none"):
        run(source, tmp_path / "out", exclude=str(tmp_path / "none"))
    with pytest.raises(DataError, match=rf"{listed} .*(audit\.json|UTF-8)"):
        run(source, tmp_path / "out", exclude_findings=(str(listed),))


def test_what_an_audit_found_is_left_out_and_then_not_found_again(tmp_path):
    source = tmp_path / "in"
    for number in range(24):
        split = "test" if number < 6 else "train"
        save(source / f"{split}/{'ab'[number % 2]}/{number:02d}.png", encoded(chest(number, 64)))
    copies = {"train/a/of_test.png": 0, "train/b/of_a.png": 8, "train/a/again.png": 10}
    for name, original in copies.items():
        save(source / name, encoded(chest(original, 64), "TIFF"))
    first = run(source, tmp_path / "first", audit=True)
    found = {f["name"] for f in audit.read_audit(first.directory)["findings"]}
    assert found == {"pictures_in_two_splits", "pictures_in_two_classes", "repeated_pictures"}
    path = tmp_path / "first/audit.json"
    second = run(source, tmp_path / "second", audit=True, exclude_findings=(str(path),))
    gone = {name: reason for name, (reason, _) in reasons(second).items()}
    assert gone.pop("train/a/again.png", None) or gone.pop("train/a/10.png")
    assert gone == dict.fromkeys(["train/a/of_test.png", "train/b/of_a.png", "train/a/08.png"], "excluded")
    assert audit.read_audit(second.directory)["findings"] == []
    document = json.loads(path.read_text())
    case = {"first": "train/a/12.png", "second": "train/a/14.png", "in": "train", "and": "train"}
    later = {**document, "findings": [{"name": "repeated_pictures", "cases": 1, "evidence": [case]}]}
    places = (str(path), str(save(tmp_path / "later.json", json.dumps(later).encode())))
    assert set(reasons(run(source, tmp_path / "both", exclude_findings=places))) == {
        *reasons(second),
        "train/a/14.png",
    }
    for finding in document["findings"]:
        finding["cases"] = 5000
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=rf"{path} .*1 of 5000"):
        run(source, tmp_path / "third", exclude_findings=(str(path),))


# -- balance -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.sampled_from(values) for values in ("abc", "xyz", ("train", "test"))]), min_size=1
    ),
    st.sampled_from(["class", "source"]),
    st.booleans(),
)
def test_every_class_is_left_as_often(cells, by, within_splits):
    items = [
        Item(f"{label}/{n}", "", label, 1, 0, split=split, source=source)
        for n, (label, source, split) in enumerate(cells)
    ]
    try:
        own = {"", *(item.split for item in items)} if within_splits else ()
        dropped = balance(items, by, own, seed=3)
    except DataError:
        dropped = {item.id: None for item in items}

    def place(item):
        return (item.split if within_splits else "", item.source if by == "source" else "")

    classes = {item.label for item in items}
    before = Counter((place(item), item.label) for item in items)
    after = Counter((place(item), item.label) for item in items if item.id not in dropped)
    for where in {place(item) for item in items}:
        assert {after[where, label] for label in classes} == {min(before[where, k] for k in classes)}
    if len(dropped) < len(items):
        assert balance(items[::-1], by, own, seed=3).keys() == dropped.keys()


def test_other_images_go_for_another_seed():
    items = [Item(f"{k}/{n}", "", k, 1, 0) for k, count in (("a", 5), ("b", 40)) for n in range(count)]
    gone = [frozenset(balance(items, "class", (), seed)) for seed in range(4)]
    assert len(set(gone)) == 4
    assert {len(names) for names in gone} == {35}


def test_sources_are_folders_below_the_class_or_a_column(tmp_path):
    for name in ("a/here/1.png", "a/there/deep/2.png", "b/3.png"):
        save(tmp_path / name, b"x")
    assert [item.source for item in discover_images(str(tmp_path)).items] == ["here", "there", ""]
    lines = "path,label,source\na/here/1.png,a,NIH\nb/3.png,b,\n"
    csv = save(tmp_path / "list.csv", lines.encode())
    assert [item.source for item in discover_images(str(csv)).items] == ["NIH", ""]


def test_a_balanced_dataset_is_the_same_for_any_runner_and_named_in_the_ledger(tmp_path):
    source = tmp_path / "in"
    places = (
        ["covid/one"] * 4 + ["covid/two"] * 9 + ["normal/one"] * 7 + ["normal/two"] * 6 + ["normal/three"]
    )
    for number, place in enumerate(places):
        save(source / f"{place}/{number}.png", encoded(chest(number, 40)))
    options = {"balance": "source", "crop_border": "auto", "equalize_to": 24, "splits": "train:0.5,test:0.5"}
    made = run(source, tmp_path / "out", **options)
    assert sum(made.counts["train"].values()) + sum(made.counts["test"].values()) == 20
    assert made.counts["train"]["covid"] == made.counts["train"]["normal"] == 5
    assert made.source_counts["excluded"] == 7
    details = Counter(detail for _, detail in reasons(made).values())
    for (detail, count), pattern in zip(
        sorted(details.items()),
        ("4 of 7 normal .* one$", "6 of 9 covid .* two$", "source three .*covid$"),
        strict=True,
    ):
        assert re.match(pattern, detail)
        assert count == (1 if "three" in detail else 3)
    assert (made.crop_border, made.equalize_to) == ("auto", 24)
    expected = content_of(tmp_path / "out")
    run(source, tmp_path / "two", workers=2, **options)
    assert content_of(tmp_path / "two") == expected
    for changed in ({"balance": "class"}, {"crop_border": "0.1"}, {"equalize_to": 20}):
        (name,) = changed
        with pytest.raises(DataError, match=f"{tmp_path / 'out'}.*{name} .*{changed[name]}"):
            run(source, tmp_path / "out", **{**options, **changed})
    Path(made.directory, "manifest.json").unlink()
    Path(made.path(made.shards[1])).unlink()
    run(source, tmp_path / "out", **options)
    assert content_of(tmp_path / "out") == expected


def test_beam_mitigates_too(source, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    options = {"balance": "class", "crop_border": "0.1", "equalize_to": 24}
    run(source, tmp_path / "local", **options)
    flags = "--direct_running_mode=in_memory --direct_num_workers=1"
    run(source, tmp_path / "beam", runner="beam", beam_options=flags, **options)
    assert content_of(tmp_path / "beam") == content_of(tmp_path / "local")


def test_what_cannot_be_balanced_is_one_line(source, tmp_path):
    with pytest.raises(UsageError, match="--balance=source: .*source"):
        run(source, tmp_path / "out", balance="source")
    for name in ("a/x/1.png", "b/y/2.png"):
        save(tmp_path / "in" / name, encoded(chest(ord(name[0]), 40)))
    with pytest.raises(DataError, match="--balance=source: .*x: a 1, b 0; y: a 0, b 1"):
        run(tmp_path / "in", tmp_path / "out", balance="source")

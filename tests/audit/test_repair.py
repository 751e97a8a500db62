"""What an audit says can be done: causes, flags with their numbers, a command, and what a repair changed."""

import dataclasses
import json
import shlex

import numpy as np
import pytest
from absl import flags as flags_module
from audit_fixtures import synthetic
from sharder_fixtures import save

from cxr_data.audit import audit, shortcuts
from cxr_data.audit.causes import causes_of
from cxr_data.audit.findings import PROBE
from cxr_data.audit.leakage import Pair, find_leakage
from cxr_data.audit.repair import Conversion, before_and_after, remedies_for, repair_command
from cxr_data.audit.shortcut_features import features_of, in_words
from cxr_data.audit.text import audit_as_text
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.conversion import conversion_of
from cxr_data.core.wording import counted, wrapped


def of_files(smallest=294, **form):
    """Pictures of files of which one is the smallest, in the given form."""
    made = {"size": 360, "color": "gray", "crop": "none", "equalized": 0, **form}
    stored = (made["size"], "area", made["color"], made["crop"], made["equalized"])
    pictures = dataclasses.replace(synthetic(0), has_files=True, stored=stored)
    pictures.rows["width"], pictures.rows["height"] = 1024, 1000
    pictures.rows["height"][5] = smallest
    return pictures


def flags(names, pictures):
    return {remedy.flag: remedy.value for remedy in remedies_for(names, pictures)}


def document_of(scores, kinds=(), **more):
    """An audit with shortcuts {feature: {class: AUROC}} and other findings {name: (kind, value)}."""
    found = [
        {"kind": "shortcut", "name": name, "value": max(of.values()), "text": name, "evidence": []}
        for name, of in scores.items()
    ]
    found += [
        {"kind": kind, "name": name, "value": value, "text": name, "evidence": []}
        for name, (kind, value) in dict(kinds).items()
    ]
    rows = [
        {"feature": name, "label": label, "auroc": auroc, "low": auroc, "high": auroc, "p": 0.005}
        for name, of in scores.items()
        for label, auroc in of.items()
    ]
    return {
        "schema": audit.SCHEMA,
        "pictures": 10,
        "patients": 1,
        "alpha": 0.01,
        "notes": [],
        "findings": found,
        "shortcuts": rows,
        **more,
    }


def test_flags_have_the_numbers_of_the_pictures():
    assert flags(["size", "format"], of_files(294)) == {"equalize_to": "147"}
    assert flags(["text top left", "border rows"], of_files()) == {"crop_border": "0.1"}
    assert flags(["border rows"], of_files()) == {"crop_border": "auto"}
    splits = dataclasses.replace(of_files(), splits=["train"] * 168 + ["val"] * 36 + ["test"] * 36)
    assert flags(["patients_in_two_splits"], splits) == {"splits": "train:0.7,val:0.15,test:0.15"}


@pytest.mark.parametrize(
    ("names", "pictures"),
    [
        (["size"], of_files(100)),  # half of it is too little of a chest
        (["size"], of_files(color="keep")),  # make_tfrecords refuses both
        (["size", "sharpness"], of_files(equalized=147)),  # done
        (["border rows"], of_files(crop="auto")),
        (["text top left"], of_files(crop="0.1")),
        (["size"], dataclasses.replace(of_files(), has_files=False)),
        ([PROBE, "mean", "patients_in_two_classes"], of_files()),
    ],
)
def test_a_flag_that_does_nothing_is_not_advised(names, pictures):
    assert flags(names, pictures) == {}


@pytest.mark.parametrize(("everywhere", "expected"), [(True, {"balance": "source"}), (False, {})])
def test_balancing_sources_needs_one_of_all_classes(everywhere, expected):
    pictures = of_files(100)
    labels = [pictures.label_name(position) for position in range(len(pictures))]
    ids = [
        f"{label}/{'one' if everywhere or label == 'covid' else 'two'}/{n}.png"
        for n, label in enumerate(labels)
    ]
    assert flags(["size"], dataclasses.replace(pictures, ids=ids)) == expected


def test_findings_of_one_cause_stand_together():
    document = document_of(
        {"size": {"covid": 1.0, "normal": 0.7}, "text top left": {"covid": 0.8}, "mode": {"covid": 0.95}},
        {"patients_in_two_splits": ("leakage", 2)},
    )
    causes = causes_of(document)
    assert [[finding["name"] for finding in cause.findings] for cause in causes] == [
        ["size", "mode"],
        ["text top left"],
        ["patients_in_two_splits"],
    ]
    assert causes[0].title.startswith("covid comes ")


def test_the_command_is_whole_and_can_be_parsed(tmp_path):
    config = SharderConfig(f"{tmp_path}/my rays", f"{tmp_path}/out", size=128, workers=3, max_bad=0.5)
    conversion = dataclasses.asdict(conversion_of(config))
    assert conversion == {"source": f"{tmp_path}/my rays", "flags": {"size": "128"}}
    repair = [{"flag": "equalize_to", "value": "147", "does": "x"}]
    document = document_of({"size": {"covid": 1.0}}, repair=repair, conversion=conversion)
    words = shlex.split("\n".join(repair_command(f"{tmp_path}/out", document)).replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "tools.make_tfrecords"]
    assert dict(word[2:].split("=", 1) for word in words[3:]) == {
        "source": f"{tmp_path}/my rays",
        "output": f"{tmp_path}/out_repaired",
        "size": "128",
        "equalize_to": "147",
        "exclude_findings": f"{tmp_path}/out/audit.json",
    }
    save(tmp_path / "out_repaired/manifest.json", b"{}")
    assert f"  --output={tmp_path}/out_repaired2 \\" in repair_command(f"{tmp_path}/out", document)
    assert repair_command(f"{tmp_path}/out", document_of({"mean": {"covid": 0.7}})) == []


@pytest.mark.parametrize("first", ["/first/audit.json", "/fir,st/audit.json"])
def test_what_an_earlier_audit_left_out_stays_out(tmp_path, first):
    made = SharderConfig("in", "out", exclude_findings=(first,))
    repair = [{"flag": "crop_border", "value": "0.1", "does": "x"}]
    conversion = dataclasses.asdict(conversion_of(made))
    document = document_of({"text top left": {"a": 0.8}}, repair=repair, conversion=conversion)
    for second in (f"{tmp_path}/audit.json", first):
        command = repair_command(second.removesuffix("/audit.json"), document)
        values = flags_module.FlagValues()
        define_flags(SharderConfig, flag_values=values)
        values(shlex.split("\n".join(command).replace("\\\n", " "))[2:])
        config = from_flags(SharderConfig, flag_values=values)
        assert config.exclude_findings == tuple(dict.fromkeys([first, second]))
        assert config.crop_border == "0.1"


def test_before_and_after_of_each_finding(tmp_path):
    before = document_of(
        {"size": {"covid": 1.0}, "text top left": {"covid": 0.8, "normal": 0.6}},
        {"repeated_pictures": ("repeats", 3)},
    )
    after = document_of({"size": {"covid": 1.0}, "mean": {"normal": 0.7}})
    after["shortcuts"].append({**before["shortcuts"][1], "auroc": 0.54, "p": 0.5})
    rows = {row[0]: row[1:3] for row in before_and_after(before, after)}
    assert rows == {
        "size": ("covid 1.000", "1.000"),
        "text top left": ("covid 0.800", "0.540"),
        "repeated pictures": ("3", "0"),
        "mean": ("normal not known", "0.700"),
    }
    path = save(tmp_path / "old/audit.json", json.dumps(before).encode())
    after["conversion"] = dataclasses.asdict(Conversion("in", {"exclude_findings": str(path)}))
    assert "  text top left  " in audit_as_text(str(tmp_path), after, 0)
    path.unlink()
    assert str(path) in audit_as_text(str(tmp_path), after, 0)


def test_lines_are_as_wide_as_the_terminal(monkeypatch):
    own = synthetic(0, strength=0.6)
    scores = [shortcuts.Score("text top left", "covid", 0.8, 0.7, 0.9, 0.005)]
    found = [*shortcuts.shortcut_findings(own, scores), *find_leakage(own, [Pair(0, 9, 1.0, True)])]
    made = audit.Audit(own, None, (), tuple(scores), tuple(found), ("a note " * 30,))
    for columns in (60, 100, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = audit_as_text("data", audit.as_document(made), 3).splitlines()
        assert max(map(len, lines)) <= min(columns, 100)
        assert max(map(len, lines)) > min(columns, 100) - 20
    long = "x" * 120
    command = f"python -m tools.audit_dataset --data={'y' * 80}"
    assert wrapped(f"look with {command}", rest="  ").splitlines() == ["look with", f"  {command}"]
    assert wrapped(f"a {long} b", "- ").splitlines() == ["- a", f"  {long}", "  b"]


def test_numbers_have_their_plural():
    assert [counted(n, "picture") for n in (0, 1, 2000)] == ["0 pictures", "1 picture", "2,000 pictures"]


def test_words_are_of_what_differs():
    pictures = synthetic(0)
    corner = next(feature for feature in features_of(pictures) if feature.name == "text top left")
    values = np.where(np.arange(240) % 10 == 0, 0.02 * (pictures.labels + 1), 0.0)
    told = in_words(dataclasses.replace(corner, values=values * 0), pictures.labels, pictures.class_names)
    assert "0.0" not in told
    labels = np.arange(240) // 80
    values = np.where(np.arange(240) % 5 == 0, 0.02 * (labels + 1), 0.0)
    told = in_words(dataclasses.replace(corner, values=values), labels, ("a", "b", "c"))
    assert [word in told for word in ("2.0%", "4.0%", "6.0%")] == [True] * 3

"""The tables of runs of which some are not finished, of several kinds of methods, and of worst sources."""

import csv
import functools
import io
import re

import numpy as np
import pytest

from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.reporting.transfer_page import write_transfer_page
from cxr_train.runs.config import TrainConfig
from cxr_train.transferring import table, text
from cxr_train.transferring.cell import Cell
from cxr_train.transferring.methods import KINDS, Method
from cxr_train.transferring.run import TransferRun

NAMES = ("normal", "pneumonia")


def made(strength, seed, images=120):
    """Return predictions that are the better, the larger `strength` is."""
    random = np.random.default_rng([seed, round(100 * strength)])
    labels = np.arange(images) % 2
    present = 1 / (1 + np.exp(-strength * (2 * labels - 1) - random.normal(size=images)))
    ids = tuple(f"i{number}" for number in range(images))
    return NamedPredictions("", NAMES, ids, ids, labels, np.stack([1 - present, present], 1))


class MadeRun(TransferRun):
    """A run whose predictions are made up, and which is finished where it has a strength."""

    @property
    def is_finished(self):
        return "strength" in self.flags

    @property
    def _strength(self):
        return float(self.flags["strength"])

    @functools.cached_property
    def chosen_on(self):
        return made(self._strength, 1)

    @functools.cached_property
    def held_out(self):
        return made(self._strength, 2)

    @property
    def training_prior(self):
        return np.array([0.5, 0.5])


def cell_of(strengths, number=0, patients=None):
    """Return a cell of runs; `strengths`: by method, and seed and draw, None where it failed."""
    runs = []
    for name, of_trials in strengths.items():
        for (seed, draw), strength in of_trials.items():
            trained = "erm" if name == "adabn" else name
            place = f"/nowhere/{number}/{trained}-{draw}-{seed}"
            config = TrainConfig(
                backbone="mobilenet_v2", data="data", run_dir=place, seed=seed, monitor="macro_auroc"
            )
            flags = {} if strength is None else {"strength": str(strength)}
            runs.append(MadeRun(name, flags, config, draw=draw))
    return Cell(
        runs, baseline="erm", patients=patients or {}, bootstrap_seed=0, resamples=200, sensitivity=0.9
    )


def trials(*strengths):
    """Return strengths of seeds 0 and 1, of two draws each."""
    return dict(zip([(0, 0), (0, 1), (1, 0), (1, 1)], strengths, strict=True))


METHODS = [
    Method("erm"),
    Method("coral"),
    Method("fda", kind="adaptation"),
    Method("prior_correction", kind="test-time"),
]
WHOLE = {"erm": trials(1, 0.5, 1, 0.5), "coral": trials(1, 0.5, 1, 0.5), "fda": trials(1, 1, 1, 1)}
# Coral lost both draws of seed 1, and of seed 0 the one that is the better for ERM.
FAILED = {**WHOLE, "coral": trials(None, 0.5, None, None)}


def document(strengths):
    cells = {f"hospital {n}": cell_of(of_cell, n) for n, of_cell in enumerate(strengths)}
    sources = [
        {"source": name, "images": 120, "patients": {"normal": 60, "pneumonia": 60}, "state": "held out",
         "told_apart": 0.9}
        for name in cells
    ]  # fmt: skip
    stress = table.table_of_stress(cells["hospital 0"], cells["hospital 0"], METHODS, "erm")
    known = [strength for of_cell in strengths for one in of_cell.values() for strength in one.values()]
    return {
        "schema": table.SCHEMA,
        "data": "data",
        "baseline": "erm",
        "budget": {"draws": 2, "seeds": [0, 1], "shared": {"learning_rate": (1e-4, 1e-2)}},
        "runs": {"finished": sum(one is not None for one in known), "planned": len(known)},
        "chosen_by": "macro_auroc",
        "sensitivity": 0.9,
        "resamples": 200,
        "sources": sources,
        "tables": {kind: table.table_of_sources(cells, METHODS, "erm", kind) for kind in KINDS},
        "bounds": dict.fromkeys(cells),
        "stress": {"sources": ["a", "b"], "classes": [*NAMES], "images": {"test": 120}, **stress},
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    """Tables of which every run is finished."""
    return document([WHOLE, WHOLE])


def test_only_trials_that_both_have_are_compared():
    found = cell_of(FAILED)
    ours, theirs, seeds = found.paired("coral")
    assert seeds == 1
    # The same predictions: a difference would be that of unequal draws or seeds.
    assert (ours["auroc"] - theirs["auroc"]).value == 0
    assert np.ptp((ours["auroc"] - theirs["auroc"]).replicates) == 0
    assert found.estimates("coral")["auroc"].value < found.estimates("erm")["auroc"].value
    assert cell_of({**WHOLE, "coral": trials(None, None, None, None)}).paired("coral") is None
    assert cell_of(WHOLE).paired("coral")[2] == 2


def test_a_method_that_changes_the_runs_of_the_baseline_has_numbers_of_its_own():
    found = cell_of({"erm": trials(1, 1, 1, 1), "adabn": trials(0.5, 0.5, 0.5, 0.5)})
    assert found.estimates("erm")["auroc"].value > found.estimates("adabn")["auroc"].value


def test_the_tables_say_how_many_runs_are_finished(whole, tmp_path):
    lost = {**WHOLE, "coral": trials(None, None, None, None)}
    found = document([FAILED, lost])
    rows = {(row["source"], row["method"]): row for row in found["tables"]["generalisation"]["rows"]}
    assert rows["hospital 0", "coral"]["runs"] == {"finished": 1, "planned": 4}
    assert rows["hospital 0", "coral"]["against"]["seeds"] == 1
    assert rows["hospital 1", "coral"]["runs"]["finished"] == 0
    assert "against" not in rows["hospital 1", "coral"]
    assert rows["hospital 1", "erm"]["runs"] == {"finished": 4, "planned": 4}
    assert "coral" in found["tables"]["generalisation"]["sentence"]
    shown = text.to_text(found)
    assert "coral 1 of 4" in shown
    assert "not finished" in text.sentences(found)[0][0]
    assert max(map(len, shown.splitlines())) <= 100
    assert "not finished" not in text.to_text(whole)
    path = write_transfer_page(tmp_path, found, text.sentences(found), text.notes(found), text.SEES)
    page = path.read_text()
    assert page.index("not finished") < page.index("<table")
    assert page.index("no method was better") < page.index("<table")
    assert "1 of 4" in page
    assert "bound: hospital 0 itself" in page.replace("<wbr>", "")
    for kind in ("Generalisation", "Adaptation", "Test-time"):
        assert f"<h3>{kind}</h3>" in page


def test_a_bound_that_did_not_run_is_not_called_too_few(tmp_path):
    ran, lost = cell_of({"erm": trials(1, 1, 1, 1)}), cell_of({"erm": trials(None, None, None, None)})
    assert table.bound(ran, ran, "erm", "erm")["within"]["auroc"]["value"] > 0.5
    found = document([WHOLE])
    found["bounds"] = {"hospital 0": table.bound(lost, ran, "erm", "erm")}
    assert "0 of 4 runs" in text.to_text(found)
    assert "too few patients within" not in text.to_text(found)
    found["bounds"] = {"hospital 0": table.bound(ran, lost, "erm", "erm")}
    assert re.search("without it no run.* finished", text.to_text(found))
    write_transfer_page(tmp_path, found, text.sentences(found), text.notes(found), text.SEES)


def test_patients_of_two_names_are_drawn_as_one():
    groups = sorted({*made(1, 2).groups})
    few = {group: groups[number % 15] for number, group in enumerate(groups)}
    widths = []
    for patients in ({}, few):
        low, high = cell_of(WHOLE, patients=patients).row("erm")["auroc"]["interval"]
        widths.append(high - low)
    assert widths[1] != widths[0]


def test_kinds_are_kept_apart_also_in_the_stress_test(whole):
    expected = {
        "generalisation": {"erm", "coral"},
        "adaptation": {"erm", "fda"},
        "test-time": {"erm", "prior_correction"},
    }
    for tables in (whole["tables"], whole["stress"]["tables"]):
        assert {kind: {row["method"] for row in one["rows"]} for kind, one in tables.items()} == expected
    lines = list(csv.DictReader(io.StringIO(text.to_csv(whole).decode())))
    methods = {}
    for line in lines:
        methods.setdefault((line["test"], line["kind"]), set()).add(line["method"])
    for test in ("held_out", "mean", "worst", "stress"):
        assert {kind: methods[test, kind] for kind in expected} == expected


def test_the_worst_source_is_that_of_each_metric():
    weak = {name: dict.fromkeys(of_method, 0.2) for name, of_method in WHOLE.items()}
    found = document([WHOLE, weak])["tables"]["generalisation"]
    of_erm = [row for row in found["rows"] if row["method"] == "erm"]
    (worst,) = (row for row in found["worst"] if row["method"] == "erm")
    (mean,) = (row for row in found["mean"] if row["method"] == "erm")
    for metric, choose in (("auroc", min), ("sensitivity", min), ("specificity", min), ("ece", max)):
        values = [row[metric]["value"] for row in of_erm]
        assert worst[metric]["value"] == choose(values), metric
        assert mean[metric]["value"] == pytest.approx(np.mean(values)), metric
        assert worst[metric]["interval"] is None
    assert not [row for row in found["worst"] if "against" in row]

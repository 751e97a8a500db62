"""The table of a search: its trials, what was spent, the winner, and what mere size says."""

import csv
import json

import pytest
from emulated_trials import EPOCHS, Curves, curves, key, search

from cxr_train.searching import table
from cxr_train.searching.ledger import Ledger
from cxr_train.searching.study import Plan

pytest.importorskip("optuna", reason="the extra [search] is not installed")
PLAN = Plan(27, EPOCHS)


@pytest.fixture(scope="module")
def found():
    ledger = Ledger(None, {})
    result = search(1, Curves(curves(1), fails={"212"}), ledger)
    return table.make_table(result, PLAN, ledger, metric="accuracy", sampler="random", seed=1)


def test_the_table_has_every_trial_and_what_was_spent(found, tmp_path):
    table.write_table(tmp_path, found)
    assert json.loads((tmp_path / "search.json").read_text()) == found
    rows = list(csv.DictReader((tmp_path / "search.csv").read_text().splitlines()))
    assert [int(row["trial"]) for row in rows] == list(range(27))
    assert sum(int(row["epochs"]) for row in rows) == found["spent"]["epochs"]
    assert found["spent"]["gpu_seconds"] == found["spent"]["epochs"] / 4
    assert found["spent"]["all_epochs"] == 27 * EPOCHS
    (failed,) = (row for row in rows if row["status"].startswith("failed"))
    assert (key(failed), failed["value"], failed["after_1"]) == ("212", "", "")
    winner = rows[found["winner"]]
    assert winner["value"] == winner["after_27"] == max(row["after_27"] for row in rows)
    text = (tmp_path / "search.txt").read_text()
    assert f"trial {found['winner']} won" in text
    assert "largest of 26 trials" in " ".join(text.split())  # those that were pruned included
    for picked_on, named in ((False, "the hold split"), (True, "no number here")):
        compared = {**found, "comparison": {"split": "hold", "picked_on": picked_on}}
        assert any(named in note for note in table.notes_of(compared))
    assert max(map(len, text.splitlines())) <= 100


def test_what_a_search_spent_is_compared_with_what_the_same_trials_take_without_pruning(tmp_path):
    path, settings = tmp_path / "trials.jsonl", {"seed": 1}
    search(1, Curves(curves(1)), Ledger(path, settings))
    ledger, plan = Ledger(path, settings), Plan(3, EPOCHS)
    result = search(1, Curves(curves(1)), ledger, trials=3)
    of_three = table.make_table(result, plan, ledger, metric="accuracy", sampler="random", seed=1)
    spent = of_three["spent"]
    assert spent["epochs"] == sum(row["epochs"] for row in of_three["trials"]) <= spent["all_epochs"]
    assert spent["gpu_seconds"] == spent["epochs"] / 4
    assert spent["seconds"] < ledger.spent().seconds
    assert ledger.spent().epochs > spent["all_epochs"]


def test_a_trial_that_fails_on_the_way_to_a_rung_keeps_what_it_measured_and_its_place():
    ledger = Ledger(None, {})
    best = table.ranked(_of_search(Curves(curves(1)), Ledger(None, {})))[0]
    runner = Curves(curves(1), fails={key(best["flags"])}, fails_after=20)
    of_failed = _of_search(runner, ledger)
    (row,) = (row for row in of_failed["trials"] if row["status"].startswith("failed"))
    assert (row["epochs"], [*row["rungs"]]) == (20, ["1", "3", "9"])
    assert row["value"] == row["rungs"]["9"] == max(row["rungs"].values())
    assert row["parameters"]
    assert row["gpu_seconds"] == 5
    ranked = table.ranked(of_failed)
    finished = [one["number"] for one in ranked if one["status"] == "finished"]
    assert [one["number"] for one in ranked][: len(finished) + 1] == [*finished, row["number"]]
    assert "1 failed" in table.to_text(of_failed)


def _of_search(runner, ledger) -> dict:
    return table.make_table(
        search(1, runner, ledger), PLAN, ledger, metric="accuracy", sampler="random", seed=1
    )


def test_the_trials_are_ranked_by_how_far_and_how_good(found):
    ranked = table.ranked(found)
    assert ranked[0]["number"] == found["winner"]
    places = [(-len(row["rungs"]), -row["value"]) for row in ranked if row["value"] is not None]
    assert places == sorted(places)


def test_the_rank_correlation_of_size_is_that_of_each_rung(found):
    assert [row["epochs"] for row in found["size_alone"]][:2] == [1, 3]
    assert found["size_alone"][0]["trials"] == 26
    for row in found["size_alone"]:
        assert row["parameters"] == row["flops"]  # the emulated FLOPs are twice the parameters
    assert table.rank_correlation([1, 5, 9], [0.1, 0.4, 0.3]) == pytest.approx(0.5)
    assert table.rank_correlation([3, 2, 1], [0.1, 0.2, 10**30]) == pytest.approx(-1)
    for sizes in ([1, None, 3], [2, 2, 2]):
        assert table.rank_correlation(sizes, [0.1, 0.4, 0.3]) is None


def test_of_a_loss_the_smallest_wins_and_size_is_ranked_the_other_way():
    ledger, plan = Ledger(None, {}), Plan(27, EPOCHS, maximize=False)
    result = search(1, Curves(curves(1)), ledger, maximize=False)
    of_loss = table.make_table(result, plan, ledger, metric="loss", sampler="random", seed=1)
    values = [row["value"] for row in of_loss["trials"] if row["epochs"] == EPOCHS]
    assert of_loss["trials"][of_loss["winner"]]["value"] == min(values)
    up = Ledger(None, {})
    other = table.make_table(
        search(1, Curves(curves(1)), up), PLAN, up, metric="accuracy", sampler="random", seed=1
    )
    first, of_up = of_loss["size_alone"][0], other["size_alone"][0]
    assert first["parameters"] == pytest.approx(-of_up["parameters"])

"""A search on emulated learning curves: what it finds, what it spends, and that a kill changes nothing."""

import json
import subprocess
import sys

import pytest
from emulated_trials import (
    A_THIRD,
    CONFIGURATIONS,
    EPOCHS,
    SPACE,
    Curves,
    curves,
    key,
    regret,
    regret_of_whole_trials,
    search,
    value,
    whole_search,
)
from project import HELPERS, ROOT

from cxr_data.core.errors import DataError, UsageError
from cxr_train.runs.config import TrainConfig
from cxr_train.searching.ledger import Ledger
from cxr_train.searching.study import Budget, Plan, settings_of_search, typical_epochs, write_study

pytest.importorskip("optuna", reason="the extra [search] is not installed")
PLAN = Plan(27, EPOCHS)


def reached(result) -> list:
    return [(trial.flags, trial.status, trial.rungs) for trial in result.trials]


@pytest.mark.parametrize("seed", range(5))
def test_successive_halving_finds_the_best_with_a_third_of_the_epochs(seed):
    of, ledger = curves(seed), Ledger(None, {})
    result = search(seed, Curves(of), ledger, "tpe")
    best = max(of, key=lambda name: of[name][0])
    assert key(result.winner(PLAN).flags) == best
    assert ledger.epochs <= A_THIRD
    assert reached(search(seed, Curves(of), None, "tpe")) == reached(result)


def test_drawn_at_random_it_finds_the_best_too_with_a_third_of_the_epochs_on_average():
    # One order in twelve takes more: where better trials come later and later, each of them goes on.
    found = [regret(seed, "alike") for seed in range(5)]
    assert [loss for loss, _ in found] == [0] * 5
    assert sum(epochs for _, epochs in found) / 5 <= A_THIRD


def test_few_searches_take_more_than_a_third_of_the_epochs_and_none_with_that_budget():
    spent = [regret(seed, "alike")[1] for seed in range(20)]
    longer = [seed for seed, epochs in enumerate(spent) if epochs > A_THIRD]
    assert 1 <= len(longer) <= 3
    for seed in longer:
        ledger = Ledger(None, {})
        search(seed, Curves(curves(seed)), ledger, budget=Budget(epochs=A_THIRD))
        assert ledger.epochs <= A_THIRD


def test_without_a_pruner_the_table_is_that_of_the_whole_grid():
    of = curves(0)
    result = search(0, Curves(of), pruner="none")
    found = {key(trial.flags): trial.last.value for trial in result.trials}
    assert found == {key(flags): value(of[key(flags)], EPOCHS) for flags in CONFIGURATIONS}
    assert {(trial.status, trial.epochs) for trial in result.trials} == {("finished", EPOCHS)}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_no_configuration_is_tried_twice_and_the_first_is_the_default(sampler):
    result = search(1, Curves(curves(1)), sampler=sampler, trials=40)
    assert sorted(key(trial.flags) for trial in result.trials) == sorted(map(key, CONFIGURATIONS))
    assert result.trials[0].params == SPACE.usual({})
    assert result.why


def test_the_epochs_that_a_search_typically_takes_are_said_beforehand():
    spent = [regret(seed, "alike")[1] for seed in range(10)]
    assert typical_epochs(PLAN, 27) == pytest.approx(sum(spent) / 10, rel=0.25)
    assert typical_epochs(Plan(5, 9, pruner="none"), 5) == 45


def test_where_curves_cross_the_search_sometimes_loses_and_by_how_much():
    found = [regret(seed, "mixed") for seed in range(20)]
    losses = [loss for loss, _ in found]
    assert min(losses) >= 0
    assert max(losses) > 0
    whole = [regret_of_whole_trials(seed, "mixed", epochs) for seed, (_, epochs) in enumerate(found)]
    assert sum(losses) < sum(whole)


def test_a_budget_ends_a_search_and_a_larger_one_continues_it(tmp_path):
    of, whole = curves(2), search(2, Curves(curves(2)))
    path = tmp_path / "trials.jsonl"
    for budget in (Budget(epochs=40), Budget(gpu_seconds=15), Budget(seconds=1000), Budget()):
        runner = Curves(of)
        ledger = Ledger(path, {})
        before = {(one.trial, one.epochs) for one in ledger.rungs}
        result = search(2, runner, ledger, budget=budget)
        assert before.isdisjoint(runner.trained)
        if budget.epochs:
            assert ledger.epochs <= 40 < ledger.epochs + 18
            assert "40" in result.why
    assert reached(result) == reached(whole)


def test_a_search_is_a_study_for_the_tools_of_optuna(tmp_path):
    import optuna

    failed = search(4, Curves(curves(4)), trials=3).trials[2]
    result = search(4, Curves(curves(4), fails={key(failed.flags)}), trials=6)
    place = tmp_path / "50%20?mode=ro#x"  # which mean something in an address
    place.mkdir()
    (place / "study.db").write_text("of an earlier start")
    write_study(result, place / "study.db")
    assert [path.name for path in place.iterdir()] == ["study.db"]
    (place / "study.db").rename(tmp_path / "study.db")
    assert {*tmp_path.iterdir()} == {place, tmp_path / "study.db"}
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/study.db")
    assert study.best_trial.number == result.winner(PLAN).number
    states = {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    assert [trial.state.name for trial in study.trials] == [states[trial.status] for trial in result.trials]
    assert [trial.params for trial in study.trials] == [trial.params for trial in result.trials]


def test_a_trial_that_fails_is_kept_and_the_next_follows(tmp_path):
    fails = {key(CONFIGURATIONS[5])}
    runner = Curves(curves(0), fails=fails)
    result = search(0, runner, Ledger(tmp_path / "trials.jsonl", {}))
    (failed,) = (trial for trial in result.trials if trial.status == "failed")
    assert key(failed.flags) in fails
    assert len(result.trials) == 27
    again = Curves(curves(0), fails=fails)
    assert reached(search(0, again, Ledger(tmp_path / "trials.jsonl", {}))) == reached(result)
    assert again.trained == []


def test_three_failures_in_a_row_end_the_search_and_are_tried_again(tmp_path):
    path = tmp_path / "trials.jsonl"
    with pytest.raises(DataError, match="trial 0 .*trial 2 .*exit code 1"):
        search(0, Curves(curves(0), fails=set(map(key, CONFIGURATIONS))), Ledger(path, {}))
    assert reached(search(0, Curves(curves(0)), Ledger(path, {}))) == reached(search(0, Curves(curves(0))))


def test_a_search_goes_on_only_with_the_same_settings(tmp_path):
    Ledger(tmp_path / "trials.jsonl", {"seed": 1})
    with pytest.raises(UsageError, match="seed 1, not 2"):
        Ledger(tmp_path / "trials.jsonl", {"seed": 2})


def test_a_search_goes_on_only_with_the_flags_that_all_its_trials_had(tmp_path):
    def settings(optimizer: str) -> dict[str, object]:
        plan = Plan(trials=1, epochs=1)
        trained = {"optimizer": optimizer, "head": (8,)}
        return settings_of_search(SPACE, plan, "random", 0, SPACE.numbered(0), trained)

    Ledger(tmp_path / "trials.jsonl", settings("adam"))
    Ledger(tmp_path / "trials.jsonl", settings("adam"))
    with pytest.raises(UsageError, match=r'--optimizer "adam", not "sgd"'):
        Ledger(tmp_path / "trials.jsonl", settings("sgd"))


def test_a_search_that_was_moved_goes_on(tmp_path):
    for place in ("began", "moved"):
        config = TrainConfig("none", "data", f"{place}/trial-0000", weights="none")
        trained = config.what_decides_the_result()
        plan = Plan(trials=1, epochs=1)
        Ledger(
            tmp_path / "trials.jsonl",
            settings_of_search(SPACE, plan, "random", 0, SPACE.numbered(0), trained),
        )


def test_a_line_that_a_kill_has_cut_off_is_trained_again(tmp_path):
    whole_search(tmp_path / "whole", 3, 0, "random")
    lines = (tmp_path / "whole/trials.jsonl").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/trials.jsonl").write_bytes(lines[: len(lines) // 2])
    whole_search(tmp_path / "cut", 3, 0, "random")
    for name in ("trials.jsonl", "search.json", "search.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (tmp_path / "cut/trials.jsonl").write_bytes(b"{}\n{no\n")
    with pytest.raises(DataError, match="trials.jsonl"):
        whole_search(tmp_path / "cut", 3, 0, "random")


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: {**row, "trial": "0"},
        lambda row: {**row, "epochs": 1e308},
        lambda row: {**row, "params": []},
        lambda row: {**row, "params": {**row["params"], "a": "not of the space"}},
        lambda row: {**row, "params": {}},
        lambda row: {**row, "outcome": {**row["outcome"], "value": "high"}},
        lambda row: {**row, "outcome": {**row["outcome"], "gpu_seconds": float("nan")}},
        lambda row: {**row, "outcome": None},
        lambda row: [],
    ],
)
def test_the_ledger_of_somebody_else_is_one_line(tmp_path, damage):
    whole_search(tmp_path, 3, 0, "random")
    path = tmp_path / "trials.jsonl"
    head, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([head, json.dumps(damage(json.loads(first))), *rest]) + "\n")
    with pytest.raises(DataError, match=r"trials\.jsonl|trial 0"):
        whole_search(tmp_path, 3, 0, "random")


@pytest.mark.parametrize("head", ["[]", "3", "[" * 100_000])
def test_a_ledger_whose_first_line_is_no_search_is_one_line(tmp_path, head):
    (tmp_path / "trials.jsonl").write_text(f"{head}\n")
    with pytest.raises(DataError, match=r"trials\.jsonl"):
        Ledger(tmp_path / "trials.jsonl", {})


def test_where_optuna_is_missing_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"cxr\[search\]"):
        search(0, Curves(curves(0)))


@pytest.mark.parametrize("kills", [8, pytest.param(30, marks=pytest.mark.ci)])
def test_kills_at_random_moments_change_no_table(tmp_path, kills):
    line = [sys.executable, HELPERS / "emulated_trials.py", "kill", tmp_path, str(kills), "0"]
    done = subprocess.run(
        line, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["kills"] >= kills
    assert all(one["same"] and not one["trained twice"] for one in said["searches"])

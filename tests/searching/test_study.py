"""A search on emulated learning curves: what it finds, what it spends, and that a kill changes nothing."""

import dataclasses
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
    assert ledger.spent().epochs <= A_THIRD
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
        assert ledger.spent().epochs <= A_THIRD


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
    before: set[tuple[int, int]] = set()
    for budget in (Budget(epochs=40), Budget(gpu_seconds=15), Budget(seconds=1000), Budget()):
        runner = Curves(of)
        ledger = Ledger(path, {})
        result = search(2, runner, ledger, budget=budget)
        assert before.isdisjoint(runner.trained)
        before |= set(runner.trained)
        if budget.epochs:
            assert ledger.spent().epochs <= 40 < ledger.spent().epochs + 18
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


class Killed(Exception):
    """In place of a kill while a trial is trained."""


class KilledIn(Curves):
    """Trials of which one is killed, by its number; None: none."""

    killed_in: int | None = None

    def train(self, trial, flags, epochs):
        if trial == self.killed_in:
            self._refuse_another(trial, key(flags))
            raise Killed
        return super().train(trial, flags, epochs)


@pytest.mark.parametrize(("seed", "number"), [(0, 10), (3, 12)])  # where the next draw depends on it
def test_a_failure_that_is_mended_gives_no_trial_another_configuration(tmp_path, seed, number):
    path, runner = tmp_path / "trials.jsonl", KilledIn(curves(seed))
    once = search(seed, Curves(curves(seed)), sampler="tpe").trials[number]
    runner.fails, runner.killed_in = {key(once.flags)}.__contains__, number + 1
    with pytest.raises(Killed):
        search(seed, runner, Ledger(path, {}), "tpe")
    runner.fails, runner.killed_in = set().__contains__, None
    result = search(seed, runner, Ledger(path, {}), "tpe")
    assert {trial.number: key(trial.flags) for trial in result.trials} == runner.configurations
    assert len(set(runner.configurations.values())) == 27
    assert "failed" not in {trial.status for trial in result.trials}


@pytest.mark.parametrize("first", [0, 4, 12])
def test_three_configurations_that_always_fail_do_not_hold_a_search_up(tmp_path, first):
    path, of = tmp_path / "trials.jsonl", curves(0)
    trials = search(0, Curves(of), sampler="tpe").trials[first : first + 3]
    fails = {key(trial.flags) for trial in trials}
    with pytest.raises(DataError, match=f"trial {first} "):
        search(0, Curves(of, fails=fails), Ledger(path, {}), "tpe")
    result = search(0, Curves(of, fails=fails), Ledger(path, {}), "tpe")
    assert [trial.number for trial in result.trials if trial.status == "failed"] == [*range(first, first + 3)]
    assert len(result.trials) == 27
    again = Curves(of, fails=fails)
    assert reached(search(0, again, Ledger(path, {}), "tpe")) == reached(result)
    assert again.trained == []


def test_configurations_that_were_refused_say_nothing_against_the_machine():
    class Refusing(Curves):
        def train(self, trial, flags, epochs):
            outcome = super().train(trial, flags, epochs)
            refused = {"value": None, "failed": "was refused", "refused": True}
            return dataclasses.replace(outcome, **refused) if trial < 5 else outcome

    result = search(0, Refusing(curves(0)))
    assert [trial.number for trial in result.trials if trial.status == "failed"] == [*range(5)]
    assert len(result.trials) == 27


def test_a_machine_that_stays_broken_ends_every_start_after_three_more_trials(tmp_path):
    for start in (1, 2):
        runner = Curves(curves(0), fails=set(map(key, CONFIGURATIONS)))
        with pytest.raises(DataError, match="failed"):
            search(0, runner, Ledger(tmp_path / "trials.jsonl", {}))
        assert [trial for trial, _ in runner.trained] == [*range(3 * start)]


def test_a_failure_that_the_budget_does_not_let_mend_stays_in_the_table(tmp_path):
    path, fails = tmp_path / "trials.jsonl", set(map(key, CONFIGURATIONS))
    with pytest.raises(DataError, match="failed"):
        search(0, Curves(curves(0), fails=fails, fails_after=3), Ledger(path, {}), least_epochs=9)
    runner = Curves(curves(0))
    result = search(0, runner, Ledger(path, {}), least_epochs=9, budget=Budget(epochs=9))
    assert [(trial.status, trial.epochs) for trial in result.trials] == [("failed", 3)] * 3
    assert runner.trained == []
    # The six epochs that each of the three lacks, and those of no other trial.
    runner, ledger = Curves(curves(0)), Ledger(path, {})
    search(0, runner, ledger, least_epochs=9, epochs=9, budget=Budget(epochs=27))
    assert (runner.trained, ledger.spent().epochs) == ([(0, 9), (1, 9), (2, 9)], 27)


@pytest.mark.parametrize("budget", [Budget(), Budget(epochs=26 * 5 + 9)])
def test_epochs_that_early_stopping_spares_are_not_spent(tmp_path, budget):
    path = tmp_path / "trials.jsonl"
    ledger = Ledger(path, {})
    result = search(0, Curves(curves(0), stops_after=5), ledger, budget=budget, least_epochs=9)
    trained = {trial.epochs for trial in result.trials}
    assert (trained, len(result.trials), ledger.spent().epochs) == ({5}, 27, 27 * 5)
    assert result.winner(PLAN) is not None


def test_a_ledger_of_a_later_version_is_not_called_damaged(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text('{"schema": "cxr.search/9", "seed": 1}\n{"of": "another form"}\n')
    with pytest.raises(DataError, match="cxr.search/9"):
        Ledger(path, {"seed": 1})
    assert "another form" in path.read_text()


def test_a_search_goes_on_after_an_upgrade_that_adds_a_flag_and_not_after_a_downgrade(tmp_path):
    path = tmp_path / "trials.jsonl"
    whole_search(tmp_path, 3, 0, "random")
    before = path.read_bytes()
    settings = json.loads(before.splitlines()[0])
    Ledger(path, {**settings, "--new": 0.0})
    assert path.read_bytes() == before
    del settings["seed"]
    with pytest.raises(UsageError, match="seed"):
        Ledger(path, settings)
    assert path.read_bytes() == before


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
        lambda begun, rung: [{**begun, "trial": "0"}, rung],
        lambda begun, rung: [{**begun, "params": []}, rung],
        lambda begun, rung: [{**begun, "params": {**begun["params"], "a": "not of the space"}}, rung],
        lambda begun, rung: [{**begun, "params": {}}, rung],
        lambda begun, rung: [begun, {**rung, "epochs": 1e308}],
        lambda begun, rung: [begun, {**rung, "outcome": {**rung["outcome"], "value": "high"}}],
        lambda begun, rung: [begun, {**rung, "outcome": {**rung["outcome"], "gpu_seconds": float("nan")}}],
        lambda begun, rung: [begun, {**rung, "outcome": None}],
        lambda begun, rung: [begun, []],
        lambda begun, rung: [rung],
        lambda begun, rung: [begun, begun, rung],
        lambda begun, rung: [begun, rung, rung],
        lambda begun, rung: [begun, {**rung, "epochs": 9}, rung],
        lambda begun, rung: [begun, {**rung, "epochs": 3}],
    ],
)
def test_the_ledger_of_somebody_else_is_one_line(tmp_path, damage):
    whole_search(tmp_path, 3, 0, "random")
    path = tmp_path / "trials.jsonl"
    head, *lines = path.read_text().splitlines()
    first = [json.loads(line) for line in lines[:2]]  # the configuration of trial 0, and its first rung
    path.write_text("\n".join([head, *map(json.dumps, damage(*first)), *lines[2:]]) + "\n")
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


@pytest.mark.parametrize(
    ("how", "kills"),
    [("kill", 8), *(pytest.param(how, 30, marks=pytest.mark.ci) for how in ("kill", "mend"))],
)
def test_kills_at_random_moments_change_no_table(tmp_path, how, kills):
    line = [sys.executable, HELPERS / "emulated_trials.py", how, tmp_path, str(kills), "0"]
    done = subprocess.run(
        line, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["kills"] >= kills
    for one in said["searches"]:
        assert (one["same"], one["trained twice"], one["configurations"]) == (True, False, 27)

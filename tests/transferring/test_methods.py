"""Methods and draws: the same for all methods, within their ranges, and files that are refused."""

import json

import numpy as np
import pytest

from cxr_data.core.errors import UsageError
from cxr_train.transferring.methods import METHODS, SHARED, drawn, fitting, read_methods


def test_a_draw_depends_on_flag_number_and_seed_alone():
    alone = {"learning_rate": SHARED["learning_rate"]}
    assert drawn(alone, 7, 1)["learning_rate"] == drawn(SHARED, 7, 1)["learning_rate"]
    assert drawn(alone, 7, 1) != drawn(alone, 7, 2)
    assert drawn(alone, 0, 1) == drawn(alone, 0, 2) == {"learning_rate": "0.001"}
    assert {type(json.loads(drawn({"steps": (1, 400)}, draw, 0)["steps"])) for draw in range(9)} == {int}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_draws_are_spread_over_each_range(seed):
    """Every range of every method: of the first 2**n draws, one lies in each of 2**n equal parts."""
    for ranges in (SHARED, *(method.ranges for method in METHODS)):
        for flag, (low, high) in ranges.items():
            reach = {flag: (float(low), float(high))}
            for count in (2, 4, 16):
                values = np.array([float(drawn(reach, draw, seed)[flag]) for draw in range(1, count + 1)])
                shares = np.log(values / low) / np.log(high / low)
                assert sorted(np.floor(shares * count)) == [*range(count)], flag


def test_the_draws_of_two_flags_have_nothing_to_do_with_each_other():
    reach = dict.fromkeys(("first", "second"), (1.0, np.e))
    pairs = [drawn(reach, draw, seed) for seed in range(60) for draw in (1, 2, 3, 4)]
    values = np.log([[float(pair[flag]) for flag in reach] for pair in pairs])
    assert abs(np.corrcoef(values.T)[0, 1]) < 3 / np.sqrt(len(pairs))


def test_methods_by_name_and_from_a_file(tmp_path):
    assert read_methods("") == METHODS
    assert [method.name for method in read_methods("coral,erm")] == ["coral", "erm"]
    path = tmp_path / "methods.json"
    path.write_text(
        '{"erm": {}, "smooth": {"label_smoothing": [0.01, 0.2], "clip_norm": 1, "balance_batches": true}}'
    )
    erm, smooth = read_methods(str(path))
    assert (erm.drawn(3, 0), smooth.drawn(0, 0)["clip_norm"]) == ({}, "1")
    assert smooth.drawn(0, 0)["balance_batches"] == "true"
    path.write_text('{"erm": {}, "seen": {"kind": "adaptation", "ema": 0.9}}')
    erm, seen = read_methods(str(path))
    assert (erm.kind, seen.kind, seen.drawn(1, 0)) == ("generalisation", "adaptation", {"ema": "0.9"})
    path.write_text('{"erm": {}, "fda": {"fda_split": "held_out"}}')
    assert [method.kind for method in read_methods(str(path))] == ["generalisation", "adaptation"]
    assert 0.01 <= float(smooth.drawn(3, 0)["label_smoothing"]) <= 0.2


@pytest.mark.parametrize(
    "text",
    [
        *(
            "[]",
            "{}",
            "{",
            '{"../a": {}}',
            '{"a": 1}',
            '{"a": {"seed": 1}}',
            '{"a": {"train_split": "train"}}',
        ),
        *(
            '{"a": {"kind": "none"}}',
            '{"a": {"fda_split": "train@only=nih"}}',
            '{"a": {"kind": "test-time"}}',
            '{"a": {"ema": [0, 1]}}',
            '{"a": {"ema": [1]}}',
            '{"a": {"ema": [2, 1]}}',
            '{"a": {"ema": null}}',
            '{"a": {"ema": [0.1, Infinity]}}',
            '{"a": {"ema": [0.1, 1e999]}}',
            '{"a": {"ema": [NaN, 1]}}',
            '{"a": {"ema": NaN}}',
            '{"erm": {}, "prior_correction": {"label_smoothing": 0.1}}',
            '{"a": {"ema": [1e-308, 1e308]}}',
            '{"a": {"ema": [1, 1%s]}}' % ("0" * 400),
            "[" * 100_000,
        ),
    ],
)
def test_what_is_no_file_of_methods_is_refused(tmp_path, text):
    path = tmp_path / "methods.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="--methods="):
        read_methods(str(path))


@pytest.mark.parametrize("text", ["none", "erm,erm", "erm,", "nowhere.json"])
def test_names_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="--methods="):
        read_methods(text)


def test_a_test_time_method_in_a_file_is_that_method(tmp_path):
    path = tmp_path / "methods.json"
    path.write_text('{"erm": {}, "prior_correction": {}}')
    assert [method.kind for method in read_methods(str(path))] == ["generalisation", "test-time"]


def test_embeddings_and_networks_without_batch_norm_have_fewer_methods():
    def names(**fit):
        return [method.name for method in fitting(METHODS, **fit)]

    of_all = names(of_pictures=True, has_batch_norm=True)
    assert of_all == [method.name for method in METHODS]
    assert {*of_all} - {*names(of_pictures=True, has_batch_norm=False)} == {"adabn"}
    left = {*of_all} - {*names(of_pictures=False, has_batch_norm=False)}
    assert left == {"mixstyle", "fda", "adabn"}

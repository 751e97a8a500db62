"""The space of a search: what a file may say, the default configuration, and what is drawn."""

import dataclasses
import json
import math

import numpy as np
import pytest

from cxr_data.core.errors import UsageError
from cxr_train.models.backbones import find_backbone
from cxr_train.runs.config import TrainConfig
from cxr_train.searching.space import default_space, make_space, read_space

SPACE = {
    "backbone": ["vgg16", "xception"],
    "drop": [{"dropout": 0}, {"dropout": 0.5, "dropout_after": "head_1"}],
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
}


def test_a_configuration_sets_the_flags_of_its_choices(tmp_path):
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    space = read_space(str(tmp_path / "space.json"))
    assert space.varied == ("backbone", "dropout", "dropout_after", "learning_rate")
    assert space.size is None
    params = space.usual({"backbone": "xception", "dropout": "0.0", "learning_rate": "0.0001"})
    assert space.flags(params) == {"backbone": "xception", "dropout": "0", "learning_rate": "0.0001"}
    params = {**params, "drop": "dropout=0.5 dropout_after=head_1"}
    assert space.flags(params)["dropout_after"] == "head_1"


def test_the_default_of_what_the_trainer_would_not_choose_is_the_first_or_the_middle():
    space = make_space(SPACE, "--space")
    params = space.usual({"backbone": "none", "dropout": "0.3", "learning_rate": "1"})
    assert space.flags(params) == {"backbone": "vgg16", "dropout": "0", "learning_rate": "0.000316228"}


def test_every_configuration_of_lists_has_a_number():
    space = make_space({"head": ["", "8"], "dropout": [0, 0.2, 0.5]}, "--space")
    flags = [tuple(space.flags(space.numbered(number)).values()) for number in range(space.size)]
    assert flags == [(head, dropout) for head in ("", "8") for dropout in ("0", "0.2", "0.5")]


def test_the_outline_has_every_combination_of_choices_and_the_middle_of_a_range():
    space = make_space({"head": ["", "8"], "dropout": {"low": 0, "high": 0.5}, "freeze": ["none"]}, "--space")
    assert list(space.outline()) == [{"head": head, "dropout": 0.25, "freeze": "none"} for head in ("", "8")]


def test_a_range_is_drawn_evenly_in_its_logarithm_and_within_its_ends():
    space = make_space(SPACE, "--space")
    drawn = [space.drawn(np.random.default_rng(number))["learning_rate"] for number in range(300)]
    assert 1e-5 <= min(drawn) < 2e-5
    assert 5e-3 < max(drawn) <= 1e-2
    assert np.median(np.log10(drawn)) == pytest.approx(-3.5, abs=0.25)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "--space"),
        ({"dropout": []}, "dropout"),
        ({"dropout": [0, 0]}, "dropout.*0"),
        ({"dropout": [[1]]}, "--dropout"),
        ({"run_dir": ["a"]}, "--run_dir"),
        ({"seed": {"low": 0, "high": 5}}, "--seed"),
        ({"dropout": {"low": 0.5, "high": 0.1}}, "low=0.5.*high=0.1"),
        ({"dropout": {"low": 0, "high": 0.5, "log": True}}, "low=0 "),
        ({"dropout": {"low": 0, "hihg": 0.5}}, "dropout"),
        ({"dropout": {"low": 0, "high": 10**400}}, "dropout"),
        ({"dropout": {"low": -1e308, "high": 1e308}}, "dropout"),
        ({"dropout": {"low": 0, "high": math.inf}}, "dropout"),
        ({"dropout": [0], "drop": [{"dropout": 0.5}]}, "--dropout.*drop"),
    ],
)
def test_what_is_no_space_is_refused_by_name(values, named):
    with pytest.raises(UsageError, match=named):
        make_space(values, "--space")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"dropout": [0], "dropout": [1]}', None])
def test_what_is_no_file_of_a_space_is_refused(tmp_path, text):
    path = tmp_path / "space.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=r"space\.json"):
        read_space(str(path))


def test_every_backbone_of_the_default_space_gets_the_pixels_that_it_expects():
    space = default_space(tuple(field.name for field in dataclasses.fields(TrainConfig)), {}, [])
    usual = space.usual({"input_range": "unit"})
    for backbone in space.dimensions["backbone"].options:
        flags = space.flags({**usual, "backbone": backbone})
        assert flags["input_range"] == "imagenet"
        assert not find_backbone(backbone).sees_black(flags["input_range"])
    assert find_backbone("efficientnet_b1").sees_black("unit")
    assert "input_range" not in default_space(("input_range", "head"), {"backbone": "none"}, []).dimensions


def test_the_default_space_leaves_out_what_is_given_or_unknown():
    known = ("backbone", "input_range", "head", "dropout", "learning_rate", "freeze", "pooling")
    assert set(default_space(known, {}, []).dimensions) == set(known)
    given = default_space(known, {"backbone": "none", "head": "8"}, [])
    assert set(given.dimensions) == {"dropout", "learning_rate"}
    assert "backbone" not in default_space(known, {"weights": "vgg16.h5"}, []).dimensions
    assert "backbone" in default_space(known, {"weights": "none"}, []).dimensions
    assert list(default_space(known, {}, [360, 224]).dimensions["image_size"].options) == ["224", "360"]
    assert "image_size" not in default_space(known, {"image_size": "224"}, [360, 224]).dimensions

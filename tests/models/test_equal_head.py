"""What is added to a network, and the head that costs as much."""

import pytest
from staged import SIZE, three_stages
from tiny import registered

from cxr_train.models.backbones import NO_BACKBONE
from cxr_train.models.classifier import build_model
from cxr_train.models.equal_head import added_parameters, equal_head, head_parameters
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.network_notes import notes_on_network

OPTIONS = {"classes": 3, "image_size": SIZE, "head": (16, 4)}


@pytest.fixture(scope="module", autouse=True)
def staged():
    with registered("staged", three_stages, smallest_image=SIZE):
        yield


def config_of(**changes) -> TrainConfig:
    values = {"backbone": "staged", "weights": "none", "head": (16, 4), **changes}
    return TrainConfig(data="data", run_dir="run", **values)


@pytest.mark.parametrize("head", [(), (16,), (128, 32), (64, 32, 8)])
@pytest.mark.parametrize("added", [0, 5, 1000, 123_456])
def test_the_head_has_as_many_parameters_more_up_to_half_a_unit(head, added):
    found = equal_head(320, head, 5, added)
    more = head_parameters(320, found, 5) - head_parameters(320, head, 5)
    a_unit = 320 + 1 + (found[1] if len(found) > 1 else 5)
    assert abs(more - added) <= a_unit / 2 or (added < a_unit and found == head)


@pytest.mark.parametrize("outputs", [1, 3, 14])
def test_a_head_without_hidden_layers_stays_so_rather_than_become_a_bottleneck(outputs):
    assert equal_head(320, (), outputs, 0) == equal_head(320, (), outputs, 5) == ()
    widths = [equal_head(320, (), outputs, added) for added in range(0, 20_000, 50)]
    assert all(width == () or width[0] > outputs for width in widths)
    (width,) = widths[-1]
    assert abs(head_parameters(320, (width,), outputs) - 321 * outputs - 19_950) <= (321 + outputs) / 2


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({}, 0),
        ({"attention": "se"}, 2 * 8 * (8 + 16 + 32)),
        ({"attention": "cbam:3"}, 2 * 8 * 32 + 8 + 32 + 98 + 2),
        ({"pooling": "gem"}, 1),
        ({"pooling": "attention"}, 128 * 32 + 128),
    ],
)
def test_what_was_added_is_counted_without_statistics(changes, added):
    assert added_parameters(build_model("staged", **OPTIONS, **changes)) == added


def test_the_notes_name_the_head_to_compare_with():
    assert notes_on_network(config_of(), build_model("staged", **OPTIONS)) == []
    (line,) = notes_on_network(config_of(attention="se"), build_model("staged", **OPTIONS, attention="se"))
    # 896 parameters; a unit of the first layer has 32 + 1 + 4.
    assert "--attention=se" in line
    assert "896" in line
    assert "--head=40-4" in line
    assert "888" in line
    gem = config_of(pooling="gem")
    (line,) = notes_on_network(gem, build_model("staged", **OPTIONS, pooling="gem"))
    assert "--pooling=gem" in line
    assert "--head" not in line
    assert notes_on_network(config_of(backbone=NO_BACKBONE), build_model("staged", **OPTIONS)) == []

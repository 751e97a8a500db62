"""The head: where its one dropout layer stands."""

import pytest
import tiny

from cxr_data.core.errors import UsageError
from cxr_train.models.classifier import build_model
from cxr_train.runs.config import TrainConfig


@pytest.fixture(scope="module", autouse=True)
def network():
    with tiny.registered("tiny", tiny.plain):
        yield


@pytest.mark.parametrize("place", ["pooling", "head_1", "head_2"])
def test_the_dropout_follows_the_layer_that_it_is_told(place):
    model = build_model("tiny", classes=3, image_size=8, head=(6, 5), dropout=0.5, dropout_after=place)
    names = [layer.name for layer in model.layers[2:]]
    assert names.pop(names.index(place) + 1) == "dropout"
    assert names == ["pooling", "head_1", "head_2", "logits"]


def test_without_a_rate_there_is_no_dropout():
    model = build_model("tiny", classes=3, image_size=8, head=(), dropout_after="pooling")
    assert [layer.name for layer in model.layers[2:]] == ["pooling", "logits"]


def test_a_place_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="--dropout_after=head_3: .*pooling, head_1, head_2"):
        TrainConfig("tiny", "data", "run", dropout_after="head_3")

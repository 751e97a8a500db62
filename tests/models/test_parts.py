"""Which layer domain methods compare."""

import pytest

from cxr_data.core.errors import UsageError
from cxr_train.models.classifier import build_model
from cxr_train.models.parts import feature_layer

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize(
    ("backbone", "head", "layer"),
    [
        ("tiny", (6, 5), "pooling"),
        ("tiny", (), "pooling"),
        ("none", (6, 5), "head_2"),
    ],
)
def test_a_penalty_on_the_features_reaches_weights(backbone, head, layer):
    size = {"features": 7, "image_size": 1} if backbone == "none" else {"image_size": 8}
    model = build_model(backbone, classes=3, head=head, **size)
    found = feature_layer(model)
    assert found.name == layer
    before = model.layers[: model.layers.index(found) + 1]
    assert any(one.trainable_weights for one in before)


def test_a_head_without_a_hidden_layer_has_nothing_to_compare():
    with pytest.raises(UsageError, match="--head"):
        feature_layer(build_model("none", classes=3, head=(), features=7, image_size=1))

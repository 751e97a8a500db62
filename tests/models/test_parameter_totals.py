"""The eight networks of the study have exactly its number of parameters."""

import json
import pathlib
from collections.abc import Iterator

import keras
import pytest

from cxr_train.models.classifier import build_model

# Backbone without top, global average pooling, dense 128-32-3; trainable or not.
# The study prints them in millions, truncated (and 92.06 for Inception-v3's 22.06).
PARAMETERS = {
    "mobilenet_v2": 2_426_179,
    "vgg16": 14_784_579,
    "densenet201": 18_572_099,
    "xception": 21_127_979,
    "inception_resnet_v2": 54_537_699,
    "resnet152_v2": 58_598_147,
    "nasnet_large": 85_437_269,
    "inception_v3": 22_069_283,
}


@pytest.fixture(autouse=True)
def forget_networks() -> Iterator[None]:
    """Lets each network go before the next: together they hold 1.1 GB."""
    yield
    keras.backend.clear_session()


QUICK = ("mobilenet_v2", "vgg16", "xception")  # the others take seconds to build


@pytest.mark.parametrize(
    "backbone",
    [*QUICK, *(pytest.param(name, marks=pytest.mark.ci) for name in PARAMETERS if name not in QUICK)],
)
def test_total(backbone: str) -> None:
    model = build_model(backbone, classes=3, image_size=360, head=(128, 32))
    assert model.count_params() == PARAMETERS[backbone]


def test_totals_are_those_of_the_study_s_file(shared: pathlib.Path) -> None:
    oracle = shared / "oracle" / "study_predictions.json"
    if not oracle.exists():
        pytest.skip(f"the study's numbers are not here: {oracle}")
    assert json.loads(oracle.read_text())["parameters_total"] == PARAMETERS

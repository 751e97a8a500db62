"""The layers at which a network is looked into."""

import keras
import pytest

from cxr_data.core.errors import UsageError
from cxr_train.models.backbones import BACKBONES
from cxr_train.models.classifier import build_model
from cxr_train.models.stages import check_layers, stage_ends, stage_outputs

# From how many pixels on all stages of a network are there, as docs/networks.md says.
ALL_STAGES = (
    dict.fromkeys(BACKBONES, 68) | {"xception": 71} | {"inception_v3": 107, "inception_resnet_v2": 107}
)


def branched() -> keras.Model:
    """A stage that ends in a merge, one without a bottleneck, and squeeze-and-excitation."""
    images = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="start")(images)
    left = keras.layers.Conv2D(4, 3, padding="same", name="left")(x)
    squeezed = keras.layers.GlobalAveragePooling2D(keepdims=True)(left)
    squeezed = keras.layers.Conv2D(4, 1, name="excite")(squeezed)
    x = keras.layers.Add(name="merged")([x, keras.layers.Multiply()([left, squeezed])])
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="down")(x)
    older = keras.layers.Conv2D(8, 1, name="older")(x)
    newer = keras.layers.Concatenate(name="newer")([older, keras.layers.Conv2D(8, 1, name="side")(x)])
    deep = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="deep")(newer)
    older = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="skip")(older)
    x = keras.layers.Concatenate(name="joined")([deep, older])
    x = keras.layers.Activation("relu", name="last")(x)
    x = keras.layers.MaxPooling2D(2, name="pooled")(x)
    return keras.Model(images, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


def test_each_stage_gives_the_layer_in_which_its_paths_come_together():
    # In the second stage `older` is used again behind `newer`, which is a merge still.
    assert stage_outputs(branched()) == ("start", "merged", "newer", "last")


def test_vgg16_gives_the_layers_of_the_study():
    names = stage_outputs(build_model("vgg16", classes=3, image_size=64, head=(4,)))
    assert names == (
        "block1_conv1",
        "block1_conv2",
        "block2_conv2",
        "block3_conv3",
        "block4_conv3",
        "block5_conv3",
    )


def test_a_layer_that_is_not_there_names_similar_ones():
    model = branched()
    assert check_layers(model, ["deep", "start"]) == ("deep", "start")
    with pytest.raises(UsageError, match="--layers=deeep: .*try deep"):
        check_layers(model, ["deeep"])
    with pytest.raises(UsageError, match="--filter_layers=excite: .*start, merged, newer, last"):
        check_layers(model, ["excite"], "filter_layers")


def test_a_network_of_single_pixels_is_refused():
    images = keras.Input((1, 1, 3))
    with pytest.raises(UsageError, match="^one_pixel "):
        stage_outputs(keras.Model(images, keras.layers.Conv2D(2, 1)(images), name="one_pixel"))


def stages(backbone: str, image_size: int) -> int:
    keras.utils.clear_session(free_memory=False)
    with keras.StatelessScope():
        return len(stage_ends(build_model(backbone, classes=3, image_size=image_size, head=(4,))))


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(
            name, marks=pytest.mark.ci if name in ("mobilenet_v2", "inception_v3") else pytest.mark.slow
        )
        for name in BACKBONES
    ],
)
def test_all_stages_are_there_from_the_documented_size_on(backbone):
    least = ALL_STAGES[backbone]
    assert {stages(backbone, size) for size in (least, least + 28, 224)} == {
        4 if backbone.startswith("convnext") else 5
    }
    if least == 107 or backbone == "mobilenet_v2":
        assert stages(backbone, least - 1) == 4

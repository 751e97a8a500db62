"""From pixels in [0, 1] to the numbers that a backbone's ImageNet weights were trained on.

Part of the model's graph, so that a saved model takes pixels in [0, 1] whatever was chosen.

The study fed [0, 1] to every network (`unit`). For most that is merely not what the weights
know; Keras' EfficientNets, which divide by 255 themselves, then see an almost black image:
the likely reason for the study's 72.96 % with EfficientNetB1.
"""

import keras

INPUT_RANGES = ("unit", "imagenet")

# keras.applications' preprocess_input, for pixels in [0, 1] instead of [0, 255].
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_STD = (0.229, 0.224, 0.225)
TRAINED_ON = ("-1..1", "0..255", "caffe", "torch")


def to_trained_range(images: keras.KerasTensor, trained_on: str) -> keras.KerasTensor:
    """Maps images [B, S, S, 3] in [0, 1] to the range named `trained_on`, one of `TRAINED_ON`."""
    name = "to_trained_range"
    match trained_on:
        case "-1..1":
            return keras.layers.Rescaling(2.0, -1.0, name=name)(images)
        case "0..255":
            return keras.layers.Rescaling(255.0, name=name)(images)
        case "caffe":
            offset = [-mean for mean in _CAFFE_MEAN_BGR]
            return keras.layers.Rescaling(255.0, offset, name=name)(keras.ops.flip(images, axis=-1))
        case "torch":
            scale = [1 / std for std in _TORCH_STD]
            offset = [-mean / std for mean, std in zip(_TORCH_MEAN, _TORCH_STD, strict=True)]
            return keras.layers.Rescaling(scale, offset, name=name)(images)
    raise ValueError(f"trained_on={trained_on!r} is none of {TRAINED_ON}")

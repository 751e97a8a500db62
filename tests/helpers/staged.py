"""A network of three stages, without pretrained weights, on which attention and pooling are tried."""

import keras

SIZE = 16


def three_stages(*, include_top, weights, input_tensor) -> keras.Model:
    x = input_tensor
    for number, channels in enumerate((8, 16, 32), 1):
        x = keras.layers.Conv2D(
            channels, 3, strides=2 if number > 1 else 1, padding="same", name=f"conv{number}"
        )(x)
        x = keras.layers.BatchNormalization(name=f"bn{number}")(x)
        x = keras.layers.Activation("relu", name=f"end{number}")(x)
    return keras.Model(input_tensor, x)

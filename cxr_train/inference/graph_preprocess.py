"""The sharder's preprocessing as TensorFlow operations: image bytes in, a model's input out.

The same kernel as `cxr_data.images.resize`, whose coefficients are whole numbers over 2**15: every sum
is exact in float32, so that another order of the additions gives the same pixels. JPEG is decoded
with the accurate integer DCT, as Pillow does. What the sharder does beyond that is not here, and refused:
JPEG in CMYK, PNG of other than 8 bits, pictures with an EXIF rotation, and every other format. These need
`cxr_train.predict`.
"""

from contextlib import AbstractContextManager

import tensorflow as tf

from cxr_data.images.resize import SCALE
from cxr_data.input.batch import expand_image
from cxr_data.records.manifest import Manifest

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Where the header of a PNG has its bit depth.
_PNG_BIT_DEPTH = 24
# Where Pillow finds an orientation of 2 to 8: an EXIF entry of one value, little- or big-endian, or XMP; and
# where it may be packed, so that no graph can tell.
_TURNED = (
    r"\x12\x01[\x01-\x0d]\x00\x01\x00\x00\x00[\x02-\x08]",
    r"\x01\x12\x00[\x01-\x0d]\x00\x00\x00\x01\x00{0,3}[\x02-\x08]",
    r"tiff:Orientation(?:=\"|>)[2-8]",
    r"Raw profile type exif",
    r"XML:com\.adobe\.xmp\x00\x01",
)


def decode(data: tf.Tensor, color: str) -> tf.Tensor:
    """Decode JPEG or 8-bit PNG bytes [] to uint8 [H, W, 1], or [H, W, 3] for color "keep".

    Raises:
      tf.errors.InvalidArgumentError: it is another file, or one that the sharder decodes otherwise.
    """
    channels = 1 if color == "gray" else 3

    def jpeg() -> tf.Tensor:
        in_cmyk = tf.io.extract_jpeg_shape(data)[2] == 4
        with _only_if(tf.logical_not(in_cmyk), "a JPEG in CMYK"):
            return tf.io.decode_jpeg(data, channels=channels, dct_method="INTEGER_ACCURATE")

    def png() -> tf.Tensor:
        begins = tf.strings.substr(data, 0, len(_PNG_SIGNATURE))
        with _only_if(begins == _PNG_SIGNATURE, "neither JPEG nor PNG"):
            depth = tf.strings.substr(data, _PNG_BIT_DEPTH, 1)
        with _only_if(depth == b"\x08", "a PNG of other than 8 bits"):
            rgba = tf.cast(tf.io.decode_png(data, channels=4), tf.int32)
        opaque = (rgba[..., :3] * rgba[..., 3:] + 127) // 255  # on black
        if color == "gray":
            # Pillow's luma, ITU-R 601-2 in 16-bit fixed point.
            luma = tf.reduce_sum(opaque * tf.constant([19595, 38470, 7471]), axis=-1, keepdims=True)
            opaque = tf.bitwise.right_shift(luma + 0x8000, 16)
        return tf.cast(opaque, tf.uint8)

    image = tf.cond(tf.io.is_jpeg(data), jpeg, png)
    # \C is any byte: what is no UTF-8 has no characters.
    turned = tf.strings.regex_full_match(data, rf"\C*(?:{'|'.join(_TURNED)})\C*")
    with _only_if(tf.logical_not(turned), "an image with an orientation"):
        return tf.ensure_shape(image, [None, None, channels])


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resize uint8 [H, W, C] to uint8 [size, size, C], bit for bit as `images.resize.resize_image`."""
    pixels = tf.transpose(tf.cast(image, tf.float32), [2, 0, 1])
    shape = tf.shape(pixels)
    narrow = _round_to_8_bits(tf.matmul(pixels, _matrix(shape[2], size), transpose_b=True))
    small = _round_to_8_bits(tf.matmul(_matrix(shape[1], size), narrow))
    return tf.cast(tf.transpose(small, [1, 2, 0]), tf.uint8)


def preprocess(data: tf.Tensor, manifest: Manifest) -> tf.Tensor:
    """Image bytes [] to the input of a model trained on `manifest`: float32 [S, S, 3] in [0, 1]."""
    # A GPU's TF32 would round the exact sums.
    with tf.device("/CPU:0"):
        small = resize(decode(data, manifest.color), manifest.size)
        if manifest.dtype == "uint8":
            stored = small
        else:
            stored = tf.cast(tf.cast(small, tf.float32) / 255.0, manifest.dtype)
        return tf.ensure_shape(expand_image(stored), [manifest.size, manifest.size, 3])


def _only_if(condition: tf.Tensor, otherwise: str) -> AbstractContextManager[None]:
    # A graph runs an Assert beside the operations below it, and the decoder's own, unhelpful error
    # would now and then come first. What is inside of this waits for the verdict.
    message = f"{otherwise}: predict it with cxr_train.predict"
    return tf.control_dependencies([tf.debugging.Assert(condition, [message])])


def _round_to_8_bits(values: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.floor(values + 0.5), 0.0, 255.0)


def _matrix(inputs: tf.Tensor, outputs: int) -> tf.Tensor:
    """Return the weights float32 [outputs, inputs] of one pass, as `cxr_data.images.resize` makes them."""
    f64 = tf.float64
    scale = tf.cast(inputs, f64) / outputs
    stretch = tf.maximum(scale, 1.0)
    center = (tf.range(outputs, dtype=f64) + 0.5) * scale
    low = tf.maximum(tf.cast(center - 2 * stretch + 0.5, tf.int32), 0)
    high = tf.minimum(tf.cast(center + 2 * stretch + 0.5, tf.int32), inputs)
    taps = tf.reduce_max(high - low)
    position = low[:, tf.newaxis] + tf.range(taps)
    weights = _cubic((tf.cast(position, f64) + 0.5 - center[:, tf.newaxis]) / stretch)
    weights *= tf.cast(position < high[:, tf.newaxis], f64)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    running = tf.round(tf.cumsum(weights, axis=1) * SCALE)
    weights = (running - tf.pad(running, [[0, 0], [1, 0]])[:, :-1]) / SCALE
    rows = tf.broadcast_to(tf.range(outputs)[:, tf.newaxis], tf.shape(position))
    # Taps past the last input have the weight 0; they are cut off.
    wide = tf.scatter_nd(tf.stack([rows, position], axis=-1), weights, [outputs, inputs + taps])
    return tf.cast(wide[:, :inputs], tf.float32)


def _cubic(x: tf.Tensor) -> tf.Tensor:
    x, a = tf.abs(x), -0.5
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return tf.where(x < 1, inner, tf.where(x < 2, outer, tf.zeros_like(x)))

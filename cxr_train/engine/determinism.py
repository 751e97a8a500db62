"""`--deterministic`: two runs with the same flags on the same device end with the same bits."""

import tensorflow as tf

from cxr_data.core.choice import Choice


def make_deterministic(xla: str) -> tuple[str, Choice]:
    """Makes every operation of this process deterministic, before the first one runs.

    Args:
      xla: the value of --xla. On a GPU, XLA (TensorFlow 2.17) refuses the gradient of max pooling
        when operations must be deterministic, so `auto` becomes `off` there. On a CPU it
        compiles and its results are the same from run to run.

    Returns:
      The value of --xla to use, and a line that says what was turned off.
    """
    tf.config.experimental.enable_op_determinism()
    turned_off = [
        "operations whose result depends on the order of threads",
        "the clock of the single steps",
        "cuDNN's autotuning",
    ]
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and xla == "auto":
        xla = "off"
        turned_off.append("XLA, which has no deterministic gradient of max pooling")
    if not gpus:
        turned_off = turned_off[:2]
    return xla, Choice("deterministic", f"on; turned off: {', '.join(turned_off)}")

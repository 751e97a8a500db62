"""What `--strategy`, `--precision` and `--xla` may be; apart from `strategy`, as it needs no TensorFlow."""

STRATEGIES = ("auto", "one", "mirrored", "multiworker")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
XLA = ("auto", "on", "off")

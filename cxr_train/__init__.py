"""The trainer: backbones, compiled steps, metrics and evaluation."""

# Before any module here imports TensorFlow: `cxr_data` keeps its chatter off the terminal.
import cxr_data  # noqa: F401

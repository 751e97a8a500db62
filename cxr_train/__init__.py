"""The trainer: backbones, compiled steps, metrics and evaluation."""

# Before any module here imports TensorFlow: `cxr_data` sets its log level.
import cxr_data  # noqa: F401

"""Command-line programs over `cxr_data` and `cxr_train`."""

# Before any module here imports TensorFlow: `cxr_data` keeps its chatter off the terminal.
import cxr_data  # noqa: F401

"""Command-line programs over `cxr_data` and `cxr_train`."""

"""The benchmarks: this project against named references, measured in one run."""

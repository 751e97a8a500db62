"""The data engine: images to TFRecord shards, and shards to batches.

discover -> decode -> resize -> record -> plan -> write -> manifest | pipeline
"""

import os

# TensorFlow's C++ side prints three "Unable to register cuFFT/cuDNN/cuBLAS" errors on
# every start of a CPU machine. What matters reaches Python as an exception. It is read
# once, when TensorFlow is imported, and this package is imported before that.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

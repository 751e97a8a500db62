"""`python -m cxr_train.main` with tiny backbones, on a device that has memory for some images only.

    python tests/helpers/small_device.py MOST --backbone=tiny ...

A step of more than MOST images fails as XLA's does on a GPU; one of more than twice as many aborts.
"""

import os
import sys

import tensorflow as tf
import tiny

from cxr_train import main
from cxr_train.engine.step import TrainStep
from cxr_train.models import backbones

backbones.BACKBONES["tiny"] = tiny.backbone("tiny", tiny.with_batch_norm)
# A try is a process of its own, which has the environment of the first but no command line.
most = int(os.environ.setdefault("MOST_IMAGES", sys.argv[1]))
plain_call, plain_init = TrainStep.__call__, TrainStep.__init__


def init(self, *arguments, global_batch, **options):
    self.images = global_batch
    plain_init(self, *arguments, global_batch=global_batch, **options)


def limited_call(self, *arguments):
    if self.images > 2 * most:
        os.write(2, b"F Check failed: h != kInvalidChunkHandle\n")
        os.abort()
    if self.images > most:
        asked = self.images * 1_000_000_000 // most
        message = f"Out of memory while trying to allocate {asked} bytes."
        raise tf.errors.ResourceExhaustedError(None, None, message)
    return plain_call(self, *arguments)


TrainStep.__init__, TrainStep.__call__ = init, limited_call
if __name__ == "__main__":
    del sys.argv[1]
    main.console_main()

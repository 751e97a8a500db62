"""The attacks of `python -m tools.chaos`: kills, damage and full disks, at random and by the thousand."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The pictures, shards and checks of the tests are the material of the attacks.
sys.path.insert(0, str(ROOT / "tests/helpers"))
# Before numpy: on a busy machine the threads of one small product wait for each other for seconds.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

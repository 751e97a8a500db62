"""The attacks of `python -m tools.chaos`: kills, damage and full disks, at random and by the thousand."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The pictures, shards and checks of the tests are the material of the attacks.
sys.path.insert(0, str(ROOT / "tests/helpers"))

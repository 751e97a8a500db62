"""Damaged shards: each reader names the damage or gives the images as they were written, never others."""

import logging
import shutil

from damaged_shards import COUNT, assert_indexed_is_right, assert_streamed_is_right, damage
from shards import random_images, write_shards

from cxr_data.records.manifest import read_manifest
from tools.chaos.attack import Attack


class DamagedShards(Attack):
    """Flipped bits, holes, cuts, empty and missing shards, for the indexed and the streamed reader."""

    name, unit, usual = "shards", "damaged shards", 500

    def prepare(self) -> None:
        """Write whole shards."""
        logging.getLogger("cxr_data").setLevel(logging.WARNING)
        self._images = random_images(COUNT, 6)
        write_shards(self.folder / "whole", {"train": self._images})

    def attempt(self, seed: int) -> int:
        """Damage one shard and read all by both readers."""
        directory = self.folder / "damaged"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self.folder / "whole", directory)
        damage(directory, seed)
        manifest = read_manifest(str(directory), check_shards=False)
        assert_indexed_is_right(manifest, self._images)
        assert_streamed_is_right(manifest, self._images)
        return 1


ATTACK = DamagedShards

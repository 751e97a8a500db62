"""Full disks: whatever file the room ends in, one line says so, and with more room the result is the same."""

from pathlib import Path

from sharder_fixtures import content_of, encoded, make_source, picture, save

from cxr_data.core.errors import DataError
from cxr_data.core.local_store import TEMPORARY_SUFFIX
from tools.chaos.attack import Attack
from tools.chaos.life import Life
from tools.chaos.sharder import Case
from tools.chaos.small_disk import PAGE, SmallDisk


class FullDisks(Attack):
    """Disks of one page, two pages and so on, so that the room ends in every file of a conversion."""

    name, unit, usual = "disks", "full disks", 300

    def prepare(self) -> None:
        """Convert undisturbed, with an audit, and try whether this user may mount a disk."""
        source = make_source(self.folder / "source", 24)
        save(source / "covid/bad.png", encoded(picture(1))[:-30])
        self._case = Case(source, True, {}, {})
        output = self.folder / "undisturbed"
        Life(lambda: self._case.convert(output, 0), self._log).succeed()
        self._case.undisturbed = content_of(output)
        # A file takes whole pages, and so does each folder.
        self._pages = sum(-(-len(content) // PAGE) for content in self._case.undisturbed.values())
        Life(lambda: SmallDisk(self.folder / "disk", 1), self._log).succeed()

    def attempt(self, seed: int) -> int:
        """Convert on a disk that is too small, then on the same one with more room."""
        life = Life(lambda: self._convert(1 + seed % self._pages, seed // self._pages % 3), self._log)
        try:
            life.succeed()
        finally:
            life.end()
        return 1

    def _convert(self, pages: int, workers: int) -> None:
        """Do it, in a process of its own: with it, its disk is gone."""
        disk = SmallDisk(self.folder / "disk", pages)
        output = disk.folder / "out"
        try:
            self._case.convert(output, workers)
        except DataError as error:
            assert "No space left" in str(error), error
            assert not list(output.glob(f"*{TEMPORARY_SUFFIX}")), "a full disk stays full of half a file"
            assert "manifest.json" not in content_of(output), "it is unfinished, and has a manifest"
            self._case.assert_whole_or_absent(output)
        disk.resize(100 * self._pages)
        self._case.convert(output, workers)
        self._case.assert_the_same(output)

    @property
    def _log(self) -> Path:
        return self.folder / "log"


ATTACK = FullDisks

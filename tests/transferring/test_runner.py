"""Running what is left of a comparison in processes."""

import dataclasses
import pathlib
import sys
from types import SimpleNamespace

from cxr_data.core.folder_lock import locked
from cxr_train.transferring.runner import run_in_processes


@dataclasses.dataclass
class FakeRun:
    """A run whose training writes its label into a file and ends with `code`."""

    label: str
    directory: pathlib.Path
    code: int
    cell: str = "nih"
    is_finished: bool = False
    is_trained: bool = False

    def forget_end(self) -> None: ...

    @property
    def commands_left(self) -> list[list[str]]:
        program = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + ' '); sys.exit(int(sys.argv[3]))"
        log = self.directory.parent / "log"
        return [[sys.executable, "-c", program, str(log), self.label, str(self.code)]]


def test_a_run_that_failed_is_not_tried_again_by_its_second_test(tmp_path):
    runs = [
        FakeRun("erm", tmp_path / "erm-seed0", 1),
        FakeRun("coral", tmp_path / "coral-seed0", 0),
        FakeRun("adapted", tmp_path / "erm-seed0", 1),
        FakeRun("prior", tmp_path / "coral-seed0", 0),
    ]
    with locked(tmp_path / "lock") as lock:
        statuses, stopped = run_in_processes(SimpleNamespace(runs=runs), lock)
    assert (tmp_path / "log").read_text().split() == ["erm", "coral", "prior"]
    assert statuses.keys() == {"nih: erm", "nih: adapted"}
    assert statuses["nih: erm"] == statuses["nih: adapted"]
    assert not stopped

"""Workers that die or hang: reported with their file, tried again, never waited for in vain."""

import contextlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from sharder_fixtures import encoded, save

from cxr_data.convert import workers
from cxr_data.convert.plan import Entry, ShardPlan
from cxr_data.convert.workers import Pool
from cxr_data.core.errors import DataError
from cxr_data.images.preprocess import PixelOptions

OPTIONS = PixelOptions(32, 1, "uint8", "gray", 10**8)


@pytest.fixture
def plans(tmp_path):
    """Two shards of two pictures each."""
    rng = np.random.default_rng(0)
    plans = []
    for shard in range(2):
        entries = []
        for number in range(2):
            path = save(tmp_path / f"{shard}_{number}.png", encoded(rng.integers(0, 256, (40, 40), np.uint8)))
            entries.append(Entry(f"a/{shard}_{number}.png", str(path), 0, "g", path.stat().st_size))
        plans.append(ShardPlan(f"train-{shard:05d}-of-00002.tfrecord", "train", tuple(entries)))
    return plans


def held(directory) -> Path:
    """The file that names the picture which workers for `directory` keep in hand while it exists."""
    return Path(f"{directory}.held")


def serve_holding(connection, slot, directory, *rest):
    """A worker's life, in which the held picture stays in hand."""
    write_shard = workers.write_shard

    def write_holding(plan, directory, options, watcher, *rest):
        class Holding:
            done = watcher.done

            def begin(self, position):
                watcher.begin(position)
                with contextlib.suppress(FileNotFoundError):  # it is removed to let go
                    while position >= 0 and held(directory).read_text() == plan.entries[position].id:
                        time.sleep(0.01)

        return write_shard(plan, directory, options, Holding(), *rest)

    workers.write_shard = write_holding
    workers._serve(connection, slot, directory, *rest)


class Disturbed:
    """Runs a pool and sends a signal to the workers that have a certain picture in hand, to so many."""

    def __init__(self, directory, plans, name, times, number, timeout=60.0):
        directory.mkdir()
        self.notes = []
        self._name, self._times, self._signal = name, times, number
        self._hit = set()
        self._held = held(directory)
        if times:
            self._held.write_text(name)
        self.pool = Pool(2, str(directory), OPTIONS, timeout, self.notes.append)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers, "_serve", serve_holding)
            patch.setattr(workers, "_POLL_SECONDS", 0.01)
            self.results = {result.name: result for result in self.pool.convert(plans, self._tick)}

    def _tick(self, _):
        for worker in self.pool._workers:
            position, pid = worker.in_hand(), worker.process.pid
            in_hand = worker.plan.entries[position].id if worker.plan and position >= 0 else None
            if in_hand == self._name and pid not in self._hit and len(self._hit) < self._times:
                self._hit.add(pid)
                os.kill(pid, self._signal)
        if len(self._hit) == self._times:
            self._held.unlink(missing_ok=True)


def bytes_of(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.fixture
def expected(tmp_path, plans):
    Disturbed(tmp_path / "calm", plans, None, 0, 0)
    return bytes_of(tmp_path / "calm")


def test_a_worker_that_dies_once_is_replaced(tmp_path, plans, expected):
    run = Disturbed(tmp_path / "out", plans, "a/0_0.png", 1, signal.SIGKILL)
    assert run.notes == [
        "a worker process ended (signal SIGKILL) with a/0_0.png in hand: it gets a second try"
    ]
    assert bytes_of(tmp_path / "out") == expected


def test_a_file_that_kills_twice_is_quarantined(tmp_path, plans, expected):
    run = Disturbed(tmp_path / "out", plans, "a/0_0.png", 2, signal.SIGKILL)
    assert "it is quarantined" in run.notes[-1]
    first = run.results[plans[0].name]
    assert [(q.id, q.reason) for q in first.quarantined] == [("a/0_0.png", "decoder_crashed")]
    assert first.records == 1
    assert bytes_of(tmp_path / "out")[plans[1].name] == expected[plans[1].name]


def test_a_worker_that_hangs_is_replaced(tmp_path, plans, expected):
    run = Disturbed(tmp_path / "out", plans, "a/1_0.png", 1, signal.SIGSTOP, timeout=1.5)
    assert run.notes == ["a worker process ended (timeout) with a/1_0.png in hand: it gets a second try"]
    assert bytes_of(tmp_path / "out") == expected


def test_workers_that_cannot_even_begin(tmp_path, plans, monkeypatch):
    monkeypatch.setattr("cxr_data.convert.workers._serve", _die)
    (tmp_path / "out").mkdir()
    pool = Pool(1, str(tmp_path / "out"), OPTIONS, 60, lambda line: None)
    with pytest.raises(DataError, match=rf"exit code 3.*{plans[0].name}"):
        list(pool.convert(plans, lambda counters: None))


def _die(*_):
    os._exit(3)


def test_counters_reach_the_total(tmp_path, plans):
    seen = []
    (tmp_path / "out").mkdir()
    results = list(Pool(2, str(tmp_path / "out"), OPTIONS, 60, print).convert(plans, seen.append))
    assert sum(result.records for result in results) == 4
    assert seen[-1].images == 4
    assert seen[-1].written == sum(result.bytes for result in results)

"""Workers that die or hang: reported with their file, tried again, never waited for in vain."""

import re
import signal
from pathlib import Path

import disturbed_workers
import numpy as np
import pytest
from sharder_fixtures import encoded, save

from cxr_data.convert import workers
from cxr_data.convert.plan import Entry, ShardPlan
from cxr_data.convert.workers import Pool
from cxr_data.core.errors import DataError
from cxr_data.images.guarded import Limits
from cxr_data.images.preprocess import PixelOptions

MINUTE = Limits(image_timeout=60)
OPTIONS = PixelOptions(32, 1, "uint8", "gray", 10**8)


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """Two shards of two pictures each."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    plans = []
    for shard in range(2):
        entries = []
        for number in range(2):
            path = save(folder / f"{shard}_{number}.png", encoded(rng.integers(0, 256, (40, 40), np.uint8)))
            entries.append(Entry(f"a/{shard}_{number}.png", str(path), 0, "g", path.stat().st_size))
        plans.append(ShardPlan(f"train-{shard:05d}-of-00002.tfrecord", "train", tuple(entries)))
    return plans


class Disturbed:
    """Runs a pool whose workers send themselves a signal with a certain picture in hand, so many times."""

    def __init__(self, directory, plans, name, times, number, timeout=60.0):
        directory.mkdir()
        self.notes = []
        for order in range(times):
            Path(f"{directory}.order{order}").write_text(f"{name} {int(number)}")
        pool = Pool(2, str(directory), OPTIONS, Limits(image_timeout=timeout), self.notes.append)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers, "serve", disturbed_workers.serve_disturbed)
            self.results = {result.name: result for result in pool.convert(plans, lambda counters: None)}


def bytes_of(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory, plans):
    folder = tmp_path_factory.mktemp("expected") / "calm"
    Disturbed(folder, plans, None, 0, 0)
    return bytes_of(folder)


def test_a_worker_that_dies_once_is_replaced(tmp_path, plans, expected):
    run = Disturbed(tmp_path / "out", plans, "a/0_0.png", 1, signal.SIGKILL)
    (note,) = run.notes
    assert re.search(r"\(signal SIGKILL\) .*a/0_0\.png.*second", note)
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
    (note,) = run.notes
    assert re.search(r"\(timeout\) .*a/1_0\.png.*second", note)
    assert bytes_of(tmp_path / "out") == expected


def test_a_worker_that_ends_with_no_picture_in_hand_is_started_again(tmp_path, plans, expected, monkeypatch):
    notes = []
    monkeypatch.setattr(workers, "serve", disturbed_workers.serve_between_images)
    (tmp_path / "out").mkdir()
    results = list(Pool(1, str(tmp_path / "out"), OPTIONS, MINUTE, notes.append).convert(plans, print))
    assert bytes_of(tmp_path / "out") == expected
    assert not any(result.quarantined for result in results)
    (note,) = notes
    assert re.search(rf"exit code 3.*{plans[0].name}", note)


def test_workers_that_cannot_even_begin_are_not_started_for_ever(tmp_path, plans, monkeypatch):
    monkeypatch.setattr(workers, "serve", disturbed_workers.end_at_once)
    (tmp_path / "out").mkdir()
    pool = Pool(1, str(tmp_path / "out"), OPTIONS, MINUTE, lambda line: None)
    with pytest.raises(DataError, match=rf"exit code 3.*{plans[0].name}"):
        list(pool.convert(plans, lambda counters: None))


def test_counters_reach_the_total(tmp_path, plans):
    seen = []
    (tmp_path / "out").mkdir()
    results = list(Pool(2, str(tmp_path / "out"), OPTIONS, MINUTE, print).convert(plans, seen.append))
    assert sum(result.records for result in results) == 4
    assert seen[-1].images == 4
    assert seen[-1].written == sum(result.bytes for result in results)

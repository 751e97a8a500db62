"""The benchmark of peers: its data, its arithmetic, and every peer that is installed, for real."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from in_process import run_command
from project import ROOT

from cxr_data.core.errors import DataError, UsageError
from tools.bench import loaders, output, peers
from tools.bench.loaders import PEERS, Peer, worker
from tools.bench.loaders.environment import Environment, package_name
from tools.bench.peers import Measured, Row
from tools.bench.peers_data import prepare

ENVIRONMENT = Environment(ROOT / "build" / "bench_env")
IMAGES, SIZE, BATCH = 12, 32, 4

OURS, STUDY, KERAS, CACHED, TORCH = (
    next(peer for peer in PEERS if peer.key == key)
    for key in ("ours", "study", "keras", "keras_cache", "torch_npy")
)


def run(peer, spec):
    python = sys.executable if peer.environment == loaders.OWN else str(ENVIRONMENT.python)
    return peers.run_worker(python, peer, spec)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def data(scratch):
    made, failed = prepare(scratch, IMAGES, SIZE, [OURS, STUDY], {}, run)
    assert not failed
    return made


@pytest.fixture(scope="module")
def pixels(data):
    return np.stack([np.load(file) for file in sorted((data.folder / "arrays").glob("*.npy"))])


def measured_epochs(peer, data):
    spec = {
        "data": str(data.folder / peer.data),
        "batch_size": BATCH,
        "size": SIZE,
        "images": IMAGES,
        "seconds": 0.01,
        "options": dict(peer.options),
    }
    return run(peer, spec)


# -- the data ----------------------------------------------------------------------------------


def test_one_set_of_images_is_made_and_kept(scratch, data, pixels):
    assert pixels.shape == (IMAGES, SIZE, SIZE, 3)
    assert pixels.dtype == np.float32
    assert len(json.loads((data.folder / "arrays" / "labels.json").read_text())) == IMAGES
    assert sum(path.is_file() for path in (data.folder / "images").glob("*/*")) == IMAGES
    before = (data.folder / "shards" / "manifest.json").stat().st_mtime_ns
    again, _ = prepare(scratch, IMAGES, SIZE, [OURS], {}, run)
    assert again == data
    assert (data.folder / "shards" / "manifest.json").stat().st_mtime_ns == before


def test_a_copy_that_cannot_be_written_names_its_peer_and_leaves_no_folder(scratch, data):
    def refuse(peer, spec):
        raise DataError("no such format")

    broken = Peer("broken", "Broken", "nothing", "broken_copy", "nothing")
    _, failed = prepare(scratch, IMAGES, SIZE, [broken], {}, refuse)
    assert list(failed) == ["broken"]
    assert failed["broken"].endswith(": no such format")
    assert not (data.folder / "broken_copy").exists()


# -- the peers ---------------------------------------------------------------------------------


# Each is a process that imports what it measures.
@pytest.mark.ci
@pytest.mark.parametrize("peer", PEERS, ids=[peer.key for peer in PEERS])
def test_an_epoch_of_every_peer_has_every_image_once(peer, scratch, data, pixels):
    missing = peers.missing_package(peer, ENVIRONMENT.versions(), {})
    if missing:
        pytest.skip(f"{missing}: python -m tools.benchmark peers installs it")
    _, failed = prepare(scratch, IMAGES, SIZE, [peer], {}, run)
    assert not failed
    result = measured_epochs(peer, data)
    assert result["images"] >= IMAGES
    assert result["seconds"] > 0
    assert result["cpu_seconds"] >= 0
    scale = 255 if peer.module == "keras_directory" else 1
    tolerance = 2e-2 if peer.data == "images" else 1e-6
    assert result["mean"] / scale == pytest.approx(pixels.mean(dtype=np.float64), abs=tolerance)


def test_a_peer_that_fails_says_why_in_one_line(data):
    with pytest.raises(DataError, match="No module named 'no_such_peer'"):
        run(
            Peer("x", "X", "no_such_peer", "arrays", "x", environment=loaders.OWN), {"data": str(data.folder)}
        )


def batches(*shapes, dtype=np.float32):
    return lambda _: (np.full(shape, 0.5, dtype) for shape in shapes)


def test_the_first_epoch_refuses_what_is_not_a_ready_batch():
    assert worker.first_epoch(batches((2, 8, 8, 3), (2, 3, 8, 8)), 4, 8) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="2 of 4 images"):
        worker.first_epoch(batches((2, 8, 8, 3)), 4, 8)
    with pytest.raises(ValueError, match="uint8"):
        worker.first_epoch(batches((2, 8, 8, 3), dtype=np.uint8), 2, 8)
    with pytest.raises(ValueError, match="float32"):
        worker.first_epoch(batches((2, 8, 8, 1)), 2, 8)


def test_only_whole_epochs_are_timed():
    timed = worker.timed_epochs(batches((2, 8, 8, 3)), 2, 0.05)
    assert timed["seconds"] >= 0.05
    assert timed["images"] % 2 == 0
    # The kernel counts in hundredths of a second: a busy machine may give none.
    assert 0 <= timed["cpu_seconds"] < 1
    with pytest.raises(ValueError, match="2 of 3 images"):
        worker.timed_epochs(batches((2, 8, 8, 3)), 3, 0.01)


def test_the_processor_time_of_a_child_is_counted():
    before = worker.cpu_seconds("self")
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert worker.cpu_seconds("self") - before >= 0.25
        child.communicate(b"\n")
    assert worker.cpu_seconds(str(child.pid)) == 0


# -- packages ----------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_the_reason():
    assert package_name("Array_Record==0.8.6") == "array-record"
    assert peers.missing_package(OURS, {}, {}) == ""
    assert peers.missing_package(TORCH, {}, {}) == "torch is not installed (--install)"
    failed = {"torch": "no matching distribution"}
    assert re.fullmatch("torch .*: no matching distribution", peers.missing_package(TORCH, {}, failed))
    assert peers.missing_package(TORCH, {"torch": "2.13.0+cpu"}, {}) == ""


def test_every_peer_is_pinned():
    pinned = {package_name(pin) for pin in loaders.PINS}
    for peer in PEERS:
        if peer.environment != loaders.OWN:
            assert {package_name(name) for name in (peer.package, *peer.needs)} <= pinned


def test_without_an_environment_nothing_is_installed(tmp_path):
    assert Environment(tmp_path).versions() == {}


# -- the table ---------------------------------------------------------------------------------

VERSIONS = {loaders.OWN: {"cxr": "1", "pillow": "2", "keras": "3"}, "": {"torch": "4"}}


def rows(ours=(90, 100, 110), study=(10,), npy=(80, 50), reason=""):
    measured = {
        "ours": Measured(list(ours), [1], 0.5),
        "study": Measured(list(study), [1], 0.5),
        "keras_cache": Measured([1000], [1], 0.5),
        "torch_npy": Measured(list(npy), [1], 0.5, reason),
    }
    return peers.make_rows([OURS, STUDY, CACHED, TORCH], measured, VERSIONS)


def test_rows_have_medians_and_ratios():
    ours, study, _, npy = rows()
    assert (ours.images_per_second, ours.slowest, ours.fastest, ours.ratio) == (100, 90, 110, 1)
    assert (study.ratio, study.version) == (10, "2")
    assert (npy.images_per_second, npy.ratio) == (65, pytest.approx(100 / 65))


def test_the_verdict_names_the_nearest_and_all_that_are_too_near():
    assert "Nearest from uncached storage: PyTorch, .npy, in process; ours is 1.54" in peers.verdict(rows())
    assert "All 2 are at least 1.5 times slower" in peers.verdict(rows())
    assert "Closer than 1.5: PyTorch, .npy, in process (1.25)." in peers.verdict(rows(npy=(80,)))
    assert peers.verdict(rows()[:1]) == "No peer was measured."


def test_a_table_has_its_numbers_to_the_right():
    columns = {"way": lambda row: row[0], "img/s": lambda row: f"{row[1]:.1f}", "": lambda row: row[2]}
    rows = [("ours", 5562.04, ""), ("a folder", 18.0, "slow")]
    lines = ["way        img/s", "ours      5562.0", "a folder    18.0  slow"]
    assert output.table(rows, columns).splitlines() == lines


def test_a_row_without_numbers_says_why():
    text = peers.rows_to_text(rows(reason="torch is not installed"))
    assert ": torch is not installed" in text
    assert len(text.splitlines()) == 5
    assert isinstance(rows(reason="x")[3], Row)


def test_other_pixels_are_no_result():
    measured = {
        "ours": Measured([1], [1], 0.5),
        "study": Measured([1], [1], 0.51),
        "keras": Measured([1], [1], 0.5 * 255),
    }
    measured["torch_npy"] = Measured([1], [1], 0.51)
    peers.check_same_images([OURS, STUDY, KERAS, TORCH], measured)
    assert [one.reason for one in measured.values()][:3] == ["", "", ""]
    assert re.search(r"\b0\.5100\b.*\b0\.5000\b", measured["torch_npy"].reason)


def test_peers_are_chosen_by_key():
    assert [peer.key for peer in peers.choose(["study"])] == ["ours", "study"]
    assert peers.choose([]) == list(PEERS)
    with pytest.raises(UsageError, match="--peers=nobody"):
        peers.choose(["nobody"])


@pytest.mark.ci
def test_the_command_prints_a_table_and_writes_json(scratch, data, tmp_path):
    command = [sys.executable, "-m", "tools.benchmark", "peers", "--peers=study,torch_npy", "--noinstall"]
    sizes = [
        f"--images={IMAGES}",
        f"--image_size={SIZE}",
        f"--batch_size={BATCH}",
        "--rounds=1",
        "--seconds=0.01",
    ]
    files = [f"--scratch={scratch}", f"--environment={tmp_path}", f"--json={tmp_path / 'out.json'}"]
    done = subprocess.run([*command, *sizes, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "study's generator" in done.stdout
    command_line, machine, caveat = done.stdout.strip().splitlines()[-3:]
    assert command_line.startswith("command: python -m tools.benchmark peers --peers=study,torch_npy")
    assert re.fullmatch(r"machine: \d+ cores \(.+\), load [\d.]+ at the start, Python 3\.\d+\.\d+", machine)
    assert caveat == f"caveat: {peers.CAVEAT}"
    found = {row["key"]: row for row in json.loads((tmp_path / "out.json").read_text())["results"]}
    assert found["study"]["images_per_second"] > 0
    assert found["torch_npy"]["reason"] == "torch is not installed (--install)"


def test_images_that_do_not_fill_the_batches_are_refused():
    done = run_command("tools.benchmark", "peers", "--images=10", "--batch_size=4")
    assert done.code == 2
    assert re.search("--images=10: .*--batch_size=4", done.output)

"""The tf.data service: every example of an epoch once, with any number of workers, and when one is lost."""

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from project import ROOT
from shards import labels_of, random_images, write_shards
from waiting import SECONDS, children_of, is_running, wait_until

from cxr_data.core import open_ports
from cxr_data.core.errors import CxrError, UsageError
from cxr_data.input import data_service, served
from cxr_data.input.options import ReadOptions
from cxr_data.input.order import InputWorker, training_batches
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest

IMAGES = random_images(67)
BATCH = 4


@pytest.fixture
def logged(caplog):
    """Records what is logged for a user: `logged.messages`."""
    caplog.set_level(logging.INFO, "cxr_data")
    return caplog


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    write_shards(directory, {"train": IMAGES}, records_per_shard=3)
    return read_manifest(str(directory))


def epochs_of(data, target, **options):
    pipeline = Pipeline(data, ReadOptions(data_service=target))
    return pipeline.training_dataset("train", batch_size=BATCH, seed=5, **options)


def positions_of(epoch: int) -> list[int]:
    """What every reader gives in an epoch: all but the odd last batch."""
    return sorted(training_batches(np.arange(67), batch_size=BATCH, seed=5, epoch=epoch).ravel())


@pytest.mark.parametrize(
    "workers", [1, 3, *(pytest.param(workers, marks=pytest.mark.ci) for workers in (2, 4))]
)
def test_every_example_of_an_epoch_comes_once(data, workers):
    with data_service.served_here(workers) as target:
        batches = list(epochs_of(data, target, epoch=1, epochs=2).as_numpy_iterator())
    assert len(batches) == 2 * 16
    for number, epoch in enumerate((1, 2)):
        part = batches[number * 16 : (number + 1) * 16]
        assert sorted(np.concatenate([batch["index"] for batch in part])) == positions_of(epoch)
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], IMAGES[batch["index"]])
        np.testing.assert_array_equal(batch["label"], labels_of(67)[batch["index"]])
        assert batch["weight"].tolist() == [1.0] * BATCH


def test_a_service_answers_at_the_addresses_of_its_host_only(data):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine is on no network")
        outside = probe.getsockname()[0]

    def answers(address, port):
        with socket.socket() as client:
            return client.connect_ex((address, port)) == 0

    before = set(open_ports.listening_at([os.getpid()]))
    with data_service.served_here(1):
        ports = set(open_ports.listening_at([os.getpid()])) - before
        assert len(ports) == 2
        assert {(port, answers("127.0.0.1", port), answers(outside, port)) for port in ports} == {
            (port, True, False) for port in ports
        }
    with data_service.DataService(0, 0, outside) as service:
        assert answers(outside, int(service.address.rpartition(":")[2]))
        assert f" {outside}, " in service.open_ports()


def test_the_end_of_an_epoch_does_not_end_a_step_that_is_under_way(data):
    @tf.function
    def steps(batches: tf.data.Iterator, count: tf.Tensor) -> tf.Tensor:
        seen = tf.zeros([], tf.int64)
        for _ in tf.range(count):
            seen += tf.reduce_sum(next(batches)["index"])
        return seen

    with data_service.served_here(1) as target:
        batches = iter(epochs_of(data, target, epoch=0, epochs=3))
        first = tf.reduce_sum(next(batches)["index"])
        seen = first + steps(batches, tf.constant(3 * 16 - 1))
    assert seen == sum(sum(positions_of(epoch)) for epoch in range(3))


def test_a_resumed_epoch_has_its_remaining_steps_and_the_next_is_whole(data):
    with data_service.served_here(2) as target:
        dataset = epochs_of(data, target, epoch=0, epochs=2, first_step=10)
        batches = [batch["index"] for batch in dataset.as_numpy_iterator()]
    assert len(batches) == 6 + 16
    first = np.concatenate(batches[:6])
    assert len(set(first)) == len(first)
    assert sorted(np.concatenate(batches[6:])) == positions_of(1)


def test_what_the_service_lost_is_read_here_and_what_it_repeats_is_dropped(monkeypatch, logged):
    monkeypatch.setattr(served, "distributed", lambda examples, _: examples)
    spec = (tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.int32))

    def arriving():
        for positions in ([4, 1], [1, 6], [0, 4]):
            yield np.array(positions), np.float32([[p, p] for p in positions]), np.int32(positions)

    def read(positions):
        images = np.float32([[p, p] for p in positions])
        return tf.data.Dataset.from_tensors((positions, images, positions.astype(np.int32)))

    dataset = tf.data.Dataset.from_generator(arriving, output_signature=spec)
    with socket.create_server(("localhost", 0)) as server:
        target = f"grpc://localhost:{server.getsockname()[1]}"
        whole = served.completed(dataset, np.array([0, 1, 2, 4, 5, 6]), read, target)
        passes = [list(whole.as_numpy_iterator()) for _ in range(2)]
    for batches in passes:
        assert [p for positions, _, _ in batches for p in positions] == [4, 1, 6, 0, 2, 5]
        for positions, images, labels in batches:
            np.testing.assert_array_equal(images[:, 0], positions)
            np.testing.assert_array_equal(labels, positions)
    assert len(logged.messages) == 2
    # The end of what was served is heard of, not waited for.
    assert "2 of 6 examples " in logged.messages[0]


@pytest.fixture
def nobody():
    """The address of a port that is taken, and at which nobody listens."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*silent.getsockname())


@pytest.mark.parametrize(
    ("end", "why"),
    [("silent", "nothing came for 4 s"), ("broken", "not known"), ("gone", "Connection refused")],
)
def test_a_service_that_ends_for_good_is_named_and_the_rest_is_read_here(end, why, monkeypatch, logged):
    monkeypatch.setattr(served, "distributed", lambda examples, _: examples)
    # A busy machine may need a second for the first message, and for the error.
    monkeypatch.setattr(served, "PATIENCE_SECONDS", 4.0 if end == "silent" else 60.0)
    never = threading.Event()

    def arriving():
        yield np.arange(3), np.ones((3, 2), np.float32), np.zeros(3, np.int32)
        if end == "broken":
            raise ValueError("the job is not known")
        never.wait()

    def read(positions):
        count = len(positions)
        return tf.data.Dataset.from_tensors((positions, np.ones((count, 2)), np.zeros(count, int)))

    spec = (tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.int32))
    dataset = tf.data.Dataset.from_generator(arriving, output_signature=spec)
    with socket.create_server(("localhost", 0)) as server:
        target = f"grpc://localhost:{server.getsockname()[1]}"
        if end == "gone":
            server.close()
        whole = served.completed(dataset, np.arange(20), read, target)
        seen = np.concatenate([positions for positions, _, _ in whole.as_numpy_iterator()])
    never.set()
    assert sorted(seen) == list(range(20))
    (line,) = logged.messages
    assert f"data service {target}: {20 if end == 'gone' else 17} of 20 examples" in line
    assert why in line


def test_wrong_options_are_one_line(data, nobody):
    for options, message in (
        ({"data_service": "here"}, "--data_service=here: "),
        ({"data_service": nobody}, f"--data_service={nobody}: Connection refused"),
        ({"data_service": nobody, "reader": "indexed"}, "--reader=indexed"),
        ({"data_service": nobody, "cache": "memory"}, "--cache=memory: "),
        ({"data_service": nobody, "worker": InputWorker(0, 2)}, "--data_service"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            Pipeline(data, ReadOptions(**options)).training_dataset("train", batch_size=4, seed=0, epoch=0)


def workers_below(service: subprocess.Popen) -> list[int]:
    """The input workers of a service that is a process of its own."""
    return [pid for pid in children_of(service) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_until_it_reads(worker: int, directory: Path) -> None:
    """Waits until a worker has a shard open: it has taken a part of the epoch, which is lost with it.

    On a busy machine the others may give the first batches long before.
    """

    def has_a_shard_open() -> bool:
        opened = []
        for descriptor in Path(f"/proc/{worker}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                opened.append(os.readlink(descriptor))
        return any(name.startswith(f"{directory}/") and name.endswith(".tfrecord") for name in opened)

    wait_until(has_a_shard_open)


@pytest.mark.ci
def test_a_worker_that_cannot_work_says_why_in_one_line(tmp_path, monkeypatch, capfd):
    """In the worker alone, the system binds no socket to a device."""
    (tmp_path / "sitecustomize.py").write_text("import socket\nsocket.SO_BINDTODEVICE = 4711\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with (
        pytest.raises(UsageError, match=r"--listen=host: port \d+ .*--listen=all"),
        data_service.DataService(0, 1, "localhost") as service,
    ):
        service.wait_until_ready()
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_that_has_worked_is_started_again_before_the_service_ends():
    """Its port may be taken for a moment: that is no mistake in the flags."""
    restarts, mistake = data_service.Restarts(), UsageError.exit_code
    with pytest.raises(UsageError, match="--listen=host"):
        restarts.count("worker 0 ended", mistake, "--listen=host: taken", 1.0, has_worked=False)
    restarts.count("worker 0 ended (taken)", mistake, "taken", 100.0, has_worked=True)
    for _ in range(2):
        restarts.count("worker 0 ended (taken)", mistake, "taken", 1.0, has_worked=True)
    with pytest.raises(CxrError, match=r"worker 0 ended \(taken\)") as raised:
        restarts.count("worker 0 ended (taken)", mistake, "taken", 1.0, has_worked=True)
    assert raised.value.exit_code == 1


@pytest.mark.slow
def test_a_killed_worker_is_named_and_its_examples_still_come_once(tmp_path, logged):
    count, batch, epochs = 2400, 8, 2
    made = write_shards(tmp_path, {"train": random_images(count, size=32)}, records_per_shard=100)
    command = [sys.executable, "-m", "tools.data_service", "--workers=2"]
    with (
        (tmp_path / "messages").open("w") as messages,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=messages, text=True) as process,
    ):
        target = re.search(r"--data_service=(\S+), 2 workers", process.stdout.readline())[1]
        workers = workers_below(process)
        # A small shuffle buffer, so that shards are still unread when the worker dies.
        pipeline = Pipeline(made, ReadOptions(data_service=target, shuffle_mb=1))
        dataset = pipeline.training_dataset("train", batch_size=batch, seed=5, epoch=0, epochs=epochs)
        seen = []
        for number, columns in enumerate(dataset):
            seen.append(columns["index"].numpy())
            if number == 3:
                wait_until_it_reads(workers[0], tmp_path)
                os.kill(workers[0], signal.SIGKILL)
        steps = count // batch
        for epoch in range(epochs):
            assert sorted(np.concatenate(seen[epoch * steps :][:steps])) == list(range(count))
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=SECONDS)[0]
        assert process.returncode == 0
    assert f"(pid {workers[0]}) ended with exit code -9" in (tmp_path / "messages").read_text()
    assert "127.0.0.1" in rest
    assert rest.endswith("data service: stopped\n")
    assert not any(is_running(pid) for pid in workers)
    (lost,) = re.findall(r"data service \S+: (\d+) of 2400 examples", "\n".join(logged.messages))
    assert 0 < int(lost) < count
    print(f"{lost} examples were lost and read here")


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["worker", "dispatcher"])
def test_what_never_comes_back_is_waited_for_once_and_named(lost, tmp_path, logged, monkeypatch):
    monkeypatch.setattr(served, "PATIENCE_SECONDS", 20.0)
    count, batch, epochs = 2400, 8, 2
    made = write_shards(tmp_path, {"train": random_images(count, size=32)}, records_per_shard=100)
    with contextlib.ExitStack() as service:
        first = service.enter_context(data_service.DataService(0, 1, "localhost"))
        second = subprocess.Popen(
            [sys.executable, "-m", "tools.data_service", "--workers=1", f"--dispatcher={first.address}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        service.enter_context(second)
        service.callback(second.kill)  # where the test fails before it does
        while first.workers_reported < 2:
            assert second.poll() is None
            time.sleep(0.1)
        pipeline = Pipeline(made, ReadOptions(data_service=f"grpc://{first.address}", shuffle_mb=1))
        dataset = pipeline.training_dataset("train", batch_size=batch, seed=5, epoch=0, epochs=epochs)
        seen = []
        for number, columns in enumerate(dataset):
            seen.append(columns["index"].numpy())
            if number == 3:
                (worker,) = workers_below(second)
                wait_until_it_reads(worker, tmp_path)
                os.killpg(second.pid, signal.SIGKILL)
                if lost == "dispatcher":
                    service.close()
        for epoch in range(epochs):
            steps = count // batch
            assert sorted(np.concatenate(seen[epoch * steps :][:steps])) == list(range(count))
        if lost == "dispatcher":  # as at the end of a training, which measures its input
            pipeline.training_dataset("train", batch_size=batch, seed=5, epoch=0)
            # An abandoned client would warn every second, until the process ends.
            wait_until(lambda: "data service" not in {thread.name for thread in threading.enumerate()})
    lines = [line for line in logged.messages if "did not come" in line]
    assert "nothing came for 20 s" in lines[0]
    assert first.address in lines[0]
    assert [line for line in lines[1:] if "Connection refused" not in line] == []

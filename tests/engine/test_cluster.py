"""Several worker processes on loopback against one process: real ones, stopped and killed."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from project import RECORDED_TRAINING, ROOT
from shards import random_images, write_shards
from tiny import results
from waiting import SECONDS, wait_until

from cxr_data.core.errors import UsageError
from cxr_data.input.order import training_batches
from cxr_train.engine.cluster import read_cluster
from cxr_train.engine.strategy import choose_placement
from cxr_train.loop.checkpoint import newest_checkpoint

IMAGES, BATCH, EPOCHS = 23, 4, 3
STEPS = IMAGES // BATCH
SECONDS_TO_NOTICE = 60


def reserved_ports(count: int) -> list[socket.socket]:
    """Bound sockets that do not listen and share their address.

    While they are open, the kernel gives their ports to nobody who asks for any; a worker, which asks
    for one by its number, may listen there.
    """
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", 0))
    return sockets


def address_of(port: socket.socket) -> str:
    return "{}:{}".format(*port.getsockname())


def tf_config(addresses: list[str], number: int) -> str:
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}})


class Run:
    """A run directory, what its workers saw, and processes that train in it."""

    def __init__(self, directory: pathlib.Path, data: pathlib.Path, workers: int, *flags: str) -> None:
        directory.mkdir()
        self.run_dir = directory / "run"
        self.records = [directory / f"record-{number}" for number in range(workers)]
        self.flags = [
            f"--data={data}",
            *("--weights=none", "--head=6", "--learning_rate=1e-2"),
            *(f"--batch_size={BATCH}", f"--epochs={EPOCHS}"),
            *flags,
        ]

    def start(self, *flags: str, step_seconds: float = 0, steps_per_call: int = 200) -> "Workers":
        ports = reserved_ports(len(self.records))
        addresses = [address_of(port) for port in ports]
        lines, environments = [], []
        for number, record in enumerate(self.records):
            program = [sys.executable, RECORDED_TRAINING, str(record)]
            program += [str(step_seconds), str(steps_per_call)]
            lines.append([*program, f"--run_dir={self.run_dir}", *self.flags, *flags])
            several = {"TF_CONFIG": tf_config(addresses, number)} if len(addresses) > 1 else {}
            environments.append(os.environ | several)
        return Workers(lines, environments, ports)

    def train(self, *flags: str) -> list[str]:
        """Trains to the end; returns the output of each worker."""
        with self.start(*flags) as workers:
            ended = [workers.wait(number) for number in range(len(self.records))]
        assert [code for code, _, _ in ended] == [0] * len(ended), ended
        return [output for _, output, _ in ended]

    def seen(self) -> dict[int, list[int]]:
        """The images of each step over all workers; a step taken again replaces the first."""
        seen: dict[int, list[int]] = {}
        for record in self.records:
            lines = [line.split() for line in record.read_text().splitlines() if line.startswith("step ")]
            for step, part in {int(line[1]): list(map(int, line[2:])) for line in lines}.items():
                seen.setdefault(step, []).extend(part)
        return seen

    def reached(self, start_of_line: str) -> bool:
        record = self.records[0]
        return record.exists() and f"\n{start_of_line}" in record.read_text()

    def rows(self) -> list[dict]:
        return results(self.run_dir)

    def predictions(self) -> list[list[str]]:
        lines = (self.run_dir / "predictions_validation.csv").read_text().splitlines()
        return [line.split(",") for line in lines[1:]]

    def probe(self) -> dict:
        return json.loads((self.run_dir / "metrics_validation.json").read_text())["probe"]

    def state(self) -> dict[str, np.ndarray]:
        """Every array of the newest checkpoint, by name."""
        reader = tf.train.load_checkpoint(str(newest_checkpoint(self.run_dir / "checkpoints") / "state"))
        names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
        return {name: reader.get_tensor(name) for name in names}


class Workers:
    """Processes that run until they end or the context closes."""

    def __init__(
        self, lines: list[list[str]], environments: list[dict[str, str]], ports: list[socket.socket]
    ) -> None:
        self.ports = ports
        self.processes = [
            subprocess.Popen(
                line, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for line, env in zip(lines, environments, strict=True)
        ]

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for port in self.ports:
            port.close()

    def wait(self, number: int, seconds: float = SECONDS) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        output, errors = self.processes[number].communicate(timeout=seconds)
        return self.processes[number].returncode, output, errors

    def wait_until(self, reached: Callable[[], bool]) -> None:
        wait_until(reached, *self.processes)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("data")
    write_shards(directory, {"train": random_images(IMAGES), "validation": random_images(7, seed=1)})
    return directory


def assert_equal_to_one_process(several: Run, one: Run) -> None:
    state, expected = several.state(), one.state()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        if not name.startswith("replica_values"):
            np.testing.assert_allclose(state[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    for row, wanted in zip(several.rows(), one.rows(), strict=True):
        assert row["train"] == pytest.approx(wanted["train"], rel=1e-5)
        assert row["validation"]["images"] == 7
        assert row["validation"]["loss"] == pytest.approx(wanted["validation"]["loss"], rel=1e-5)
        assert row["validation"]["confusion_matrix"] == wanted["validation"]["confusion_matrix"]
    rows, expected_rows = several.predictions(), one.predictions()
    assert [row[0] for row in rows] == [f"validation/{number}.png" for number in range(7)]
    for row, wanted in zip(rows, expected_rows, strict=True):
        assert row[:4] == wanted[:4]
        np.testing.assert_allclose(list(map(float, row[4:])), list(map(float, wanted[4:])), atol=1e-5)
    probe, expected_probe = several.probe(), one.probe()
    assert probe == expected_probe
    assert probe["images"] == 7
    assert_each_example_once(several)
    assert several.seen() == one.seen()


def assert_each_example_once(run: Run) -> None:
    orders = [training_batches(np.arange(IMAGES), batch_size=BATCH, seed=0, epoch=n) for n in range(EPOCHS)]
    batches = np.concatenate(orders).tolist()
    assert run.seen() == dict(enumerate(batches, start=1))


# Without BatchNorm, which normalises per replica.
PLAIN = "--backbone=tiny_plain"


@pytest.mark.ci
def test_two_workers_are_equal_to_one_process(data, tmp_path):
    one = Run(tmp_path / "one", data, 1, PLAIN, "--ema=0.9")
    two = Run(tmp_path / "two", data, 2, PLAIN, "--ema=0.9")
    one.train()
    chief, other = two.train()
    assert "strategy: multiworker (auto: TF_CONFIG names 2 workers)" in chief
    assert other.startswith("worker 1 (127.0.0.1:")
    assert len(other.splitlines()) == 1
    assert_equal_to_one_process(two, one)


@pytest.mark.slow
def test_four_workers_are_equal_to_one_process(data, tmp_path):
    one = Run(tmp_path / "one", data, 1, PLAIN)
    four = Run(tmp_path / "four", data, 4, PLAIN)
    one.train()
    four.train()
    assert_equal_to_one_process(four, one)


BATCH_NORM = ("--backbone=tiny", "--dropout=0.3", "--deterministic")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Run:
    """A run of two workers that was never stopped, with BatchNorm, so that their statistics differ."""
    run = Run(tmp_path_factory.mktemp("whole") / "1", data, 2, *BATCH_NORM)
    run.train()
    return run


@pytest.mark.slow
def test_two_workers_evaluate_with_the_moments_of_the_batches_of_both(data, whole):
    """What enters the one BatchNorm does not depend on how a batch is divided."""
    model = keras.saving.load_model(whole.run_dir / "last.keras", compile=False)
    (norm,) = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = keras.Model(model.input, norm.input)
    order = training_batches(np.arange(IMAGES), batch_size=BATCH, seed=0, epoch=EPOCHS - 1)
    entering = before(random_images(IMAGES)[order.ravel()]).numpy().astype(np.float64)
    np.testing.assert_allclose(norm.moving_mean.numpy(), entering.mean(axis=(0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.numpy(), entering.var(axis=(0, 1, 2)), rtol=1e-4)


def assert_same_bits(run: Run, whole: Run) -> None:
    state, expected = run.state(), whole.state()
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        assert array.tobytes() == state[name].tobytes(), name
    assert run.rows() == whole.rows()
    assert run.predictions() == whole.predictions()
    assert_each_example_once(run)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_ends_the_other_with_a_line_and_both_resume(data, whole, tmp_path, victim, number):
    run = Run(tmp_path / "1", data, 2, *BATCH_NORM)
    with run.start("--save_minutes=0.005", step_seconds=0.3, steps_per_call=2) as workers:
        workers.wait_until(lambda: run.reached(f"step {STEPS + 3} "))
        workers.processes[victim].send_signal(number)
        code, _, errors = workers.wait(1 - victim, SECONDS_TO_NOTICE)
    assert code == 1, errors
    # TensorFlow's own log stands around it.
    (line,) = [line for line in errors.splitlines() if "error: worker" in line]
    assert line.startswith(f"recorded_training: error: worker {victim} (127.0.0.1:")
    assert "was lost" in line
    assert line.endswith("start all 2 again with --resume")
    assert "Traceback" not in errors
    output = run.train("--resume")
    assert re.search(r"resume: epoch 2, after [1-4] of 5 steps", output[0])
    assert_same_bits(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("moment", [f"step {STEPS + 3} ", "evaluate"])
def test_sigterm_on_one_worker_stops_all_at_the_same_place(data, whole, tmp_path, asked, moment):
    run = Run(tmp_path / "1", data, 2, *BATCH_NORM)
    with run.start(step_seconds=0.3, steps_per_call=2) as workers:
        workers.wait_until(lambda: run.reached(moment))
        workers.processes[asked].send_signal(signal.SIGTERM)
        ended = [workers.wait(number) for number in range(2)]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "--resume" in ended[0][1].splitlines()[-1]
    assert len(run.rows() if (run.run_dir / "metrics.jsonl").exists() else []) < 2
    run.train("--resume")
    assert_same_bits(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "of_chief", "of_other"),
    [
        ("--run_dir={}/other", "error: worker 1 (127.0.0.1:", "config.json"),
        ("--epochs=4", "--epochs=3: differs between worker 0 and worker 1", "--epochs=4: differs between"),
    ],
)
def test_workers_that_do_not_fit_together_are_named(data, tmp_path, flag, of_chief, of_other):
    run = Run(tmp_path / "1", data, 2, PLAIN)
    ports = reserved_ports(2)
    addresses = [address_of(port) for port in ports]
    program = [
        sys.executable,
        RECORDED_TRAINING,
        str(run.records[0]),
        "0",
        "1",
        *run.flags,
    ]
    program.append(f"--run_dir={run.run_dir}")
    environments = [os.environ | {"TF_CONFIG": tf_config(addresses, number)} for number in range(2)]
    with Workers([program, [*program, flag.format(tmp_path)]], environments, ports) as workers:
        for number, expected in enumerate([of_chief, of_other]):
            code, _, errors = workers.wait(number)
            assert code in (1, 2)
            (line,) = [line for line in errors.splitlines() if "recorded_training: error: " in line]
            assert expected in line


def listens(port: socket.socket) -> bool:
    with socket.socket() as client:
        return client.connect_ex(port.getsockname()) == 0


@pytest.mark.slow
def test_ctrl_c_ends_a_worker_that_waits_for_the_others():
    ports = reserved_ports(2)
    environment = os.environ | {"TF_CONFIG": tf_config([address_of(port) for port in ports], 0)}
    code = """
from cxr_data.commands.messages import shown_messages
from cxr_train.engine import cluster
with shown_messages():
    cluster.join_cluster(cluster.read_cluster())
"""
    with Workers([[sys.executable, "-c", code]], [environment], ports) as workers:
        workers.wait_until(lambda: listens(ports[0]))
        workers.processes[0].send_signal(signal.SIGINT)
        ended, output, _ = workers.wait(0)
    assert ended == -signal.SIGINT
    assert re.search(r"worker 0 .*\bof 2\b", output)


def test_a_cluster_is_read_in_tensorflows_order(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert read_cluster() is None
    jobs = {"worker": ["b:2", "c:3"], "chief": ["a:1"]}
    task = {"type": "worker", "index": "1"}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": jobs, "task": task}))
    cluster = read_cluster()
    assert cluster.addresses == ("a:1", "b:2", "c:3")
    assert (cluster.number, cluster.size, cluster.is_chief) == (2, 3, False)
    assert (cluster.input_worker.number, cluster.input_worker.count) == (2, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "TF_CONFIG .*JSON"),
        ("[1]", "TF_CONFIG .*JSON"),
        ('{"cluster": {"ps": ["a:1"]}}', "job 'ps'"),
        ('{"cluster": {"worker": ["a"]}}', "address 'a'"),
        ('{"cluster": {"worker": 2}}', "list .*'worker'"),
        ('{"cluster": {"worker": {"0": "a:1"}}}', "list .*'worker'"),
        (tf_config(["a:1", "a:1"], 0), "address 'a:1' twice"),
        (tf_config(["a:1", "b:1"], 2), "task 2 of job 'worker'"),
        ('{"cluster": {"worker": ["a:1"]}}', "task None of job None"),
    ],
)
def test_a_wrong_tf_config_is_one_clear_line(monkeypatch, text, expected):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match=expected):
        read_cluster()


def test_multiworker_without_tf_config_says_what_to_set(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UsageError, match="--strategy=multiworker: .*TF_CONFIG"):
        choose_placement("multiworker", "float32", "off")

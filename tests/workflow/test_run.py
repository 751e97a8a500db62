"""`python -m cxr_train.run`: what it chooses, runs, goes on with and refuses. The steps are not run here."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from project import ROOT
from sharder_fixtures import make_source, save
from waiting import SECONDS, wait_until

from cxr_data.core.errors import CxrError, DataError, UsageError
from cxr_data.synthetic.sample import SampleConfig, make_sample
from cxr_train import run
from cxr_train.run import WorkflowOptions, run_workflow
from cxr_train.workflow.machine import Machine

CPU, GPU = Machine(2, 0, "none"), Machine(16, 1, "one")
STEPS = ["make_tfrecords", "audit_dataset", "main", "explain"]


class Fakes:
    """Stands for the processes of the steps: each leaves behind what the real one would.

    Attributes:
      commands: what was run, by the step's name and its flags.
      ends: by name, the exit code of a step that leaves nothing behind.
      signals: by name, whether SIGTERM came while it was at work.
    """

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, str]]] = []
        self.ends: dict[str, int] = {}
        self.signals: set[str] = set()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.commands]

    def end(self, command: list[str]) -> int:
        assert command[:2] == [sys.executable, "-m"]
        name = command[2].rpartition(".")[2]
        flags = dict(word.removeprefix("--").partition("=")[::2] for word in command[3:])
        self.commands.append((name, flags))
        if name in self.ends:
            return self.ends[name]
        self.leave(name, flags)
        return 0

    def leave(self, name: str, flags: dict[str, str]) -> None:
        match name:
            case "make_tfrecords":
                save(pathlib.Path(flags["output"], "manifest.json"), b"{}")
            case "audit_dataset":
                save(pathlib.Path(flags["data"], "audit.json"), b"{}")
            case "main":
                for file in ("config.json", "throughput.json", "best.keras"):
                    save(pathlib.Path(flags["run_dir"], file), b"{}")
                self.of_model(pathlib.Path(flags["run_dir"]), "metrics_test.json")
            case "explain":
                self.of_model(pathlib.Path(flags["run_dir"]), f"explain/{flags['split']}/explain.json")
                save(pathlib.Path(flags["run_dir"], "report/index.html"), b"")
            case "evaluate":
                self.of_model(pathlib.Path(flags["run_dir"]), f"metrics_{flags['split']}.json")
            case "report":
                save(pathlib.Path(flags["run_dir"], "report/index.html"), b"")

    def of_model(self, run_dir: pathlib.Path, file: str) -> None:
        sha256 = subprocess.run(["sha256sum", run_dir / "best.keras"], capture_output=True, text=True).stdout
        save(run_dir / file, json.dumps({"model_sha256": sha256.split()[0]}).encode())


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """A folder `xrays` of 24 images in the working directory, a CPU, no weights, and no real step."""
    fakes = Fakes()

    class Commands(run.ChildCommands):
        def run(self, command: list[str]) -> int:
            code = fakes.end(command)
            self.stopped = signal.SIGTERM if fakes.names[-1] in fakes.signals else self.stopped
            return code

    monkeypatch.setattr(run, "ChildCommands", Commands)
    monkeypatch.setattr(run, "find_machine", lambda: CPU)
    monkeypatch.setattr(run, "pretrained_weights", lambda backbone: (False, "nowhere"))
    monkeypatch.chdir(tmp_path)
    make_source(tmp_path / "xrays")
    return fakes


def go(*arguments: str, **options: object) -> int:
    return run_workflow(WorkflowOptions(**options), arguments)


def test_each_step_is_run_once_and_the_page_is_named(fakes, capsys):
    assert go("xrays/") == 0
    assert fakes.names == STEPS
    out = capsys.readouterr().out
    *others, page, browser = out.splitlines()
    assert page.endswith(" runs/xrays/run/report/index.html")
    assert browser.endswith(f" {pathlib.Path('runs/xrays/run/report/index.html').absolute().as_uri()}")
    assert max(map(len, others)) < 100
    assert go("xrays") == 0
    assert fakes.names == STEPS
    assert capsys.readouterr().out.splitlines()[-2:] == [page, browser]


def test_what_is_printed_is_what_is_run(fakes, capsys, tmp_path):
    (tmp_path / "xrays").rename(tmp_path / "my x-rays, 'old'")
    assert go("my x-rays, 'old'", output="out put", backbone="vgg16") == 0
    printed = capsys.readouterr().out.partition("[1/6] convert\n")[2].partition("\n\n")[0]
    shell = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {printed}"], capture_output=True, text=True, check=True
    )
    words = shell.stdout.splitlines()
    name, flags = fakes.commands[0]
    assert words[1] == "-m"
    assert words[2].endswith(f".{name}")
    assert flags == dict(word.removeprefix("--").partition("=")[::2] for word in words[3:])
    assert flags["source"] == "my x-rays, 'old'"
    assert fakes.commands[2][1]["backbone"] == "vgg16"


@pytest.mark.parametrize("name", STEPS)
def test_the_same_command_goes_on_at_the_step_that_was_killed(fakes, name):
    fakes.ends[name] = -signal.SIGKILL
    assert go("xrays") == 128 + signal.SIGKILL
    assert fakes.names == STEPS[: STEPS.index(name) + 1]
    done = len(fakes.names)
    fakes.ends.clear()
    assert go("xrays") == 0
    assert fakes.names[done:] == STEPS[STEPS.index(name) :]


def test_training_that_has_begun_is_resumed_on_the_same_data(fakes, tmp_path):
    fakes.ends["main"] = 0  # as after SIGTERM to it alone
    assert go("xrays") == 1
    assert fakes.names[-1] == "main"
    save(tmp_path / "runs/xrays/run/config.json", b"{}")
    fakes.ends.clear()
    assert go("xrays") == 0
    (begun, resumed) = [flags for name, flags in fakes.commands if name == "main"]
    assert "resume" not in begun
    assert resumed == {
        "flagfile": "runs/xrays/run/flags.txt",
        "run_dir": "runs/xrays/run",
        "data": "runs/xrays/tfrecords",
        "resume": "",
    }


def test_what_was_said_of_an_earlier_model_is_made_again(fakes, tmp_path):
    assert go("xrays") == 0
    (tmp_path / "runs/xrays/run/best.keras").write_bytes(b"another")
    assert go("xrays") == 0
    assert fakes.names[len(STEPS) :] == ["evaluate", "explain"]
    assert "overwrite" in fakes.commands[-1][1]


def test_a_page_that_is_older_than_the_maps_is_made_again(fakes, tmp_path):
    assert go("xrays") == 0
    os.utime(tmp_path / "runs/xrays/run/report/index.html", (1, 1))
    assert go("xrays") == 0
    assert fakes.names[len(STEPS) :] == ["report"]


@pytest.mark.parametrize(
    ("code", "exit_code"), [(0, 143), (1, 1), (130, 130), (-signal.SIGTERM, 143), (-signal.SIGINT, 130)]
)
def test_a_workflow_that_a_signal_ended_never_exits_with_0(fakes, capsys, code, exit_code):
    fakes.ends["main"], fakes.signals = code, {"main"}
    assert go("xrays") == exit_code
    assert fakes.names[-1] == "main"
    assert "train: stopped; " in capsys.readouterr().err


def test_a_signal_between_two_steps_begins_no_other(fakes):
    fakes.signals = {"audit_dataset"}
    assert go("xrays") == 143
    assert fakes.names == STEPS[:2]
    fakes.signals = set()
    assert go("xrays") == 0
    assert fakes.names == STEPS


def test_the_settings_of_the_first_command_hold_for_the_second(fakes, monkeypatch, tmp_path):
    fakes.ends["make_tfrecords"] = 1
    assert go("xrays") == 1
    save(tmp_path / "runs/xrays/tfrecords/ledger.jsonl", b"")  # it had begun
    monkeypatch.setattr(run, "find_machine", lambda: GPU)
    assert go("xrays") == 1
    assert fakes.commands[0] == fakes.commands[1]


def settings(fakes) -> dict[str, str]:
    assert go("xrays") == 0
    return fakes.commands[0][1] | fakes.commands[2][1]


def test_on_a_cpu_without_weights_all_layers_of_a_small_network_are_trained(fakes):
    chosen = settings(fakes)
    assert chosen["size"] == "224"
    assert (chosen["dtype"], chosen["channels"]) == ("uint8", "1")
    assert (chosen["backbone"], chosen["weights"]) == ("mobilenet_v2", "none")
    assert (chosen["batch_size"], chosen["epochs"]) == ("4", "50")
    assert not {"freeze", "learning_rate", "input_range"} & set(chosen)


def test_on_a_cpu_with_weights_only_the_head_is_trained(fakes, monkeypatch):
    monkeypatch.setattr(run, "pretrained_weights", lambda backbone: (True, "there"))
    chosen = settings(fakes)
    assert (chosen["weights"], chosen["freeze"]) == ("imagenet", "backbone")
    assert (chosen["learning_rate"], chosen["input_range"]) == ("0.001", "imagenet")


def test_on_a_gpu_a_larger_network_sees_larger_images(fakes, monkeypatch):
    monkeypatch.setattr(run, "find_machine", lambda: GPU)
    monkeypatch.setattr(run, "pretrained_weights", lambda backbone: (True, "there"))
    chosen = settings(fakes)
    assert (chosen["size"], chosen["backbone"]) == ("360", "xception")
    assert "freeze" not in chosen


def test_more_images_get_fewer_epochs_and_larger_batches(fakes, tmp_path):
    few = settings(fakes)
    for number in range(1000):
        save(tmp_path / f"xrays/covid/{number}.png", b"")
    assert go("xrays", output="more") == 0
    many = fakes.commands[-2][1]
    assert int(many["batch_size"]) > int(few["batch_size"])
    assert int(many["epochs"]) < int(few["epochs"])


@pytest.mark.parametrize(
    ("folders", "splits", "explained"),
    [
        (("train", "val", "test"), "folders", "test"),
        (("train", "validation"), "folders", "validation"),
        (("train", "test"), "train:0.85,validation:0.15", "test"),
    ],
)
def test_splits_of_the_source_are_kept(fakes, tmp_path, folders, splits, explained):
    for folder in folders:
        make_source(tmp_path / "split" / folder)
    assert go("split") == 0
    assert fakes.commands[0][1]["splits"] == splits
    assert fakes.commands[-1][1]["split"] == explained


@pytest.mark.parametrize(
    ("splits", "explained"),
    [("train:0.8,validation:0.2", "validation"), ("train:0.8,test:0.2", "test"), ("auto", "test")],
)
def test_the_split_that_is_explained_is_one_that_is_made(fakes, splits, explained):
    assert go("xrays", f"--splits={splits}") == 0
    assert [flags["split"] for name, flags in fakes.commands if name == "explain"] == [explained]


def test_a_split_that_is_drawn_takes_the_place_of_the_folders(fakes, tmp_path):
    for folder in ("train", "val"):
        make_source(tmp_path / "split" / folder)
    assert go("split", "--splits=train:0.6,validation:0.2,test:0.2") == 0
    assert fakes.commands[-1][1]["split"] == "test"


@pytest.mark.parametrize(("other", "explained"), [("test", "test"), ("validation", "validation")])
def test_splits_of_a_split_file_are_taken(fakes, tmp_path, other, explained):
    ids = [path.relative_to("xrays").as_posix() for path in sorted(pathlib.Path("xrays").glob("*/*"))]
    lines = [f"{name},{'train' if number % 3 else other}" for number, name in enumerate(ids)]
    save(tmp_path / "splits.csv", "\n".join(["id,split", *lines]).encode())
    assert go("xrays", "--split_file=splits.csv") == 0
    assert (fakes.commands[0][1]["splits"], fakes.commands[0][1]["split_file"]) == ("folders", "splits.csv")
    assert fakes.commands[-1][1]["split"] == explained


@pytest.mark.parametrize("splits", ["train:0.8,other:0.2", "validation:0.5,test:0.5", "folders"])
def test_splits_without_one_to_evaluate_are_refused_before_anything_is_made(fakes, splits):
    with pytest.raises(UsageError, match="--splits"):
        go("xrays", f"--splits={splits}")
    assert not fakes.commands


def test_flags_that_stopped_the_conversion_may_be_corrected(fakes):
    fakes.ends["make_tfrecords"] = 2
    assert go("xrays", "--balance=source") == 2
    fakes.ends.clear()
    assert go("xrays") == 0
    first, second = [flags for name, flags in fakes.commands if name == "make_tfrecords"]
    assert "balance" in first
    assert "balance" not in second


def test_the_batch_is_divided_evenly_among_the_gpus(fakes, monkeypatch):
    monkeypatch.setattr(run, "find_machine", lambda: dataclasses.replace(GPU, gpus=3))
    assert int(settings(fakes)["batch_size"]) % 3 == 0


def test_flags_are_passed_on_to_the_step_that_has_them(fakes):
    assert go("--epochs", "3", "xrays", "--exclude_folders", "covid", "--augment_flip", "--seed=4") == 0
    conversion, training = fakes.commands[0][1], fakes.commands[2][1]
    assert conversion["exclude_folders"] == "covid"
    assert "seed" not in conversion
    assert (training["epochs"], training["augment_flip"], training["seed"]) == ("3", "true", "4")
    assert "epochs" not in conversion


def test_a_run_on_validation_too_has_nothing_to_stop_early_by(fakes):
    assert go("xrays", "--train_on=train+validation") == 0
    training = fakes.commands[2][1]
    assert training["train_split"] == "train+validation"
    assert not {"train_on", "early_stopping"} & set(training)


def test_a_size_for_the_trainer_is_that_of_the_shards(fakes):
    assert go("xrays", "--image_size=96") == 0
    assert (fakes.commands[0][1]["size"], fakes.commands[2][1]["image_size"]) == ("96", "96")


def test_a_dry_run_makes_nothing(fakes, capsys):
    assert go("xrays", dry_run=True) == 0
    assert not fakes.commands
    assert not pathlib.Path("runs").exists()
    assert capsys.readouterr().out.count("-m cxr_train.") == 4


@pytest.mark.parametrize(
    ("arguments", "options", "error", "named"),
    [
        ([], {}, UsageError, "xrays/"),
        (["nowhere"], {}, UsageError, "nowhere"),
        (["empty"], {}, DataError, "empty/CLASS"),
        (["one"], {}, DataError, "'covid'"),
        (["above"], {}, DataError, "above/xrays"),
        (["only"], {}, DataError, "train"),
        (["s3://bucket/xrays"], {}, UsageError, "s3://bucket/xrays"),
        (["xrays"], {"output": "xrays/out"}, UsageError, "--output=xrays/out"),
        (["xrays"], {"output": "one"}, UsageError, "--output=one"),
        (["xrays"], {"output": "file"}, UsageError, "--output=file"),
        (["xrays"], {"weights": "file"}, UsageError, "--backbone"),
        (["xrays"], {"weights": "nowhere.h5", "backbone": "vgg16"}, DataError, "nowhere.h5"),
        (["xrays", "--size=64"], {"backbone": "xception"}, UsageError, "64"),
        (["xrays", "--data=shards"], {}, UsageError, "--data"),
        (["xrays", "--max_bad_records=7"], {}, UsageError, "--max_bad_records=7"),
        (["xrays", "--depth=3"], {}, UsageError, "depth"),
        (["xrays", "other"], {}, UsageError, "other"),
        (["xrays", "--dropout=1.5"], {}, UsageError, "--dropout=1.5"),
        (["xrays", "--dropout=0,5"], {}, UsageError, "--dropout=0,5: must be a number"),
        (["xrays", "--batch_size=x"], {}, UsageError, "--batch_size=x"),
        (["xrays", "--size=0"], {}, UsageError, "size"),
    ],
)
def test_what_cannot_be_begun_is_refused(fakes, tmp_path, arguments, options, error, named):
    make_source(tmp_path / "one", classes=("covid",))
    make_source(tmp_path / "above/xrays")
    make_source(tmp_path / "only/test")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(error) as raised:
        go(*arguments, **options)
    assert named in str(raised.value)
    assert "--source" not in str(raised.value)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "options", "error", "named"),
    [
        (["xrays", "--epochs=3"], {}, UsageError, "--epochs=3"),
        (["xrays"], {"backbone": "vgg16"}, UsageError, "--backbone=vgg16"),
        (["other"], {"output": "runs/xrays"}, UsageError, "--output=runs/xrays"),
        (["xrays"], {}, DataError, "25 "),
    ],
)
def test_an_output_of_other_settings_is_refused(fakes, tmp_path, arguments, options, error, named):
    assert go("xrays") == 0
    make_source(tmp_path / "other")
    if error is DataError:
        save(tmp_path / "xrays/covid/new.png", b"")
    with pytest.raises(CxrError) as raised:
        go(*arguments, **options)
    assert raised.type is error
    assert named in str(raised.value)


def test_of_two_commands_at_once_the_second_sees_what_the_first_has_begun(fakes, monkeypatch, tmp_path):
    locked = run.locked

    @contextlib.contextmanager
    def while_another_begins(lock, **options):
        monkeypatch.setattr(run, "locked", locked)
        assert go("xrays", "--epochs=3") == 0
        with locked(lock, **options) as descriptor:
            yield descriptor

    monkeypatch.setattr(run, "locked", while_another_begins)
    with pytest.raises(UsageError, match="--epochs=3"):
        go("xrays", "--epochs=4")
    plan = tmp_path / "runs/xrays/plan.json"
    first = plan.read_bytes()
    monkeypatch.setattr(run, "locked", while_another_begins)
    assert go("xrays", "--epochs=3") == 0
    assert (fakes.names, plan.read_bytes()) == (STEPS, first)


def test_it_starts_without_tensorflow(tmp_path):
    make_source(tmp_path / "xrays")
    program = (
        "import sys, runpy\n"
        "sys.argv = ['run', '--epochs=7', 'xrays', '--dry_run', '--weights=none', '--', '--seed=3']\n"
        "try: runpy.run_module('cxr_train.run', run_name='__main__')\n"
        "finally: print('tensorflow' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": os.path.dirname(sys.executable)}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "False"
    assert "python -m cxr_data.commands.make_tfrecords --source=xrays" in ended.stdout
    assert "--epochs=7 --seed=3" in ended.stdout


@pytest.mark.ci
def test_the_whole_is_killed_and_run_again(tmp_path):
    make_sample(SampleConfig(output=tmp_path / "xrays", images=18, sizes=(512,)))
    flags = ["--weights=none", "--size=64", "--epochs=1", "--batch_size=4"]
    line = [sys.executable, "-m", "cxr_train.run", "xrays", *flags]
    start = functools.partial(
        subprocess.Popen, line, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    first = start()
    made = tmp_path / "runs/xrays"
    wait_until((made / "run/config.json").exists, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    second = start()
    said, _ = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, said
    assert "[1/6] convert: done" in said
    assert "--resume" in said.partition("[3/6] train\n")[2].partition("\n\n")[0]
    assert (made / "run/report/index.html").is_file()
    assert said.splitlines()[-1].endswith((made / "run/report/index.html").as_uri())

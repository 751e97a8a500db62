"""What the defaults depend on: a GPU that TensorFlow can use, and weights that can be had."""

import pathlib
import types

import pytest

from cxr_train.models.backbones import BACKBONES
from cxr_train.workflow import machine


def program(path: pathlib.Path, says: str) -> str:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("usable", "gpus"), [("0", 0), ("2", 2)])
def test_a_gpu_counts_if_tensorflow_can_use_it(monkeypatch, tmp_path, usable, gpus):
    program(tmp_path / "nvidia-smi", "GPU 0: NVIDIA")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    python = types.SimpleNamespace(executable=program(tmp_path / "python", usable))
    monkeypatch.setattr(machine, "sys", python)
    assert machine.find_machine().gpus == gpus


def test_a_machine_without_a_gpu_does_not_load_tensorflow(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "sys", None)
    assert machine.find_machine().gpus == 0


def test_weights_are_had_from_the_cache_or_not_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(machine.urllib.request, "urlopen", unreachable)
    at_hand, where = machine.pretrained_weights("vgg16")
    assert not at_hand
    assert str(tmp_path) in where
    (tmp_path / "models").mkdir()
    BACKBONES["vgg16"].cached_weights.write_bytes(b"")
    assert machine.pretrained_weights("vgg16")[0]


def unreachable(*arguments: object, **options: object) -> None:
    raise OSError("no network")

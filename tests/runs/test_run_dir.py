"""What a resumed run may change, and what not."""

import pathlib
import shutil

import pytest
from shards import random_images, write_shards

from cxr_data.core.errors import DataError, UsageError
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_dir import check_resumed, keep_run, open_run_dir
from cxr_train.runs.saved_run import trained_on


def config(data: pathlib.Path, run_dir: pathlib.Path, **changes: object) -> TrainConfig:
    return TrainConfig("vgg16", str(data), str(run_dir), weights="none", **changes)


def test_a_run_and_its_data_may_be_moved_but_not_exchanged(tmp_path):
    began, moved, other = (tmp_path / name for name in ("began", "moved", "other"))
    write_shards(began / "data", {"train": random_images(5), "validation": random_images(3)})
    write_shards(other, {"train": random_images(5, seed=1), "validation": random_images(3)})
    keep_run(config(began / "data", began), "", [])
    shutil.move(began, moved)
    before = open_run_dir(moved, resume=True)
    check_resumed(config(moved / "data", moved), before)
    with pytest.raises(DataError, match=f"--resume: {other} .*{moved}/manifest.json"):
        check_resumed(config(other, moved), before)
    with pytest.raises(UsageError, match="--resume: .*--batch_size=32, .*4; .*--flagfile="):
        check_resumed(config(moved / "data", moved, batch_size=4), before)


def test_a_directory_that_is_no_run_names_those_in_it(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}/typo: .*folder"):
        trained_on(tmp_path / "typo")
    with pytest.raises(DataError, match=f"{tmp_path} .*no config"):
        trained_on(tmp_path)
    write_shards(tmp_path / "data", {"train": random_images(2)})
    (tmp_path / "of a hospital").mkdir()
    keep_run(config(tmp_path / "data", tmp_path / "of a hospital"), "", [])
    with pytest.raises(DataError, match=rf"{tmp_path} .*config\.json: .*{tmp_path}/of a hospital"):
        trained_on(tmp_path)

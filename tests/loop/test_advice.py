"""What a run advises for the next one."""

import pytest

from cxr_train.loop.advice import advice, is_still_improving
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig


def config(run_dir="run", **changes) -> TrainConfig:
    values = {"backbone": "mobilenet_v2", "data": "data", "run_dir": str(run_dir), "epochs": 10} | changes
    return TrainConfig(**values)


def curve(*losses: float) -> list[dict]:
    return [{"validation": {"loss": loss, "accuracy": -loss, "macro": {}}} for loss in losses]


FALLING = [1.0 - n / 20 for n in range(10)]


@pytest.mark.parametrize(
    ("losses", "changes", "improving"),
    [
        (FALLING, {}, True),
        (FALLING, {"monitor": "accuracy"}, True),
        ([*FALLING[:8], 0.1, 0.2], {}, False),
        # Of 20 epochs, the last two are the last tenth.
        ([*([1.0] * 18), 0.5, 0.6], {"epochs": 20}, True),
        ([*([1.0] * 17), 0.5, 0.6, 0.6], {"epochs": 20}, False),
        (FALLING[:5], {}, False),  # stopped early
        (FALLING[:1], {"epochs": 1}, False),
        (FALLING, {"train_split": "train+validation"}, False),
    ],
)
def test_a_run_still_improves_if_its_best_epoch_is_among_the_last(losses, changes, improving):
    assert is_still_improving(config(**changes), curve(*losses)) is improving


BALANCED = {"covid": 100, "normal": 200}


def test_a_longer_training_is_a_command_where_flags_began_the_run(tmp_path):
    of_program = advice(config(tmp_path), BALANCED, curve(*FALLING))
    assert len(of_program) == 1
    assert "--epochs=20 --resume" in of_program[0]
    (tmp_path / "flags.txt").write_text("")
    *_, command = advice(config(tmp_path), BALANCED, curve(*FALLING))
    flags = f"--flagfile={tmp_path / 'flags.txt'} --epochs=20 --resume"
    assert command.strip() == f"python -m cxr_train.main {flags}"


def test_a_schedule_that_has_ended_is_not_resumed(tmp_path):
    (line,) = advice(config(tmp_path, recipe=Recipe(schedule="cosine")), BALANCED, curve(*FALLING))
    assert "--epochs=20" in line
    assert "--resume" not in line


def test_imbalance_is_named_with_the_flag_unless_it_is_set():
    flat = curve(*[1.0] * 10)
    assert advice(config(), BALANCED, flat) == []
    (line,) = advice(config(), {"covid": 100, "normal": 201, "absent": 0}, flat)
    assert "--class_weights=balanced" in line
    assert "covid" in line
    assert "201" in line
    assert advice(config(recipe=Recipe(class_weights="balanced")), {"covid": 1, "normal": 9}, flat) == []

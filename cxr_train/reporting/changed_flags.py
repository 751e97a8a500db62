"""The flags of a run that differ from their defaults."""

import dataclasses

from cxr_data.core.settings import settings_of
from cxr_data.input.options import ReadOptions
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig


def changed_flags(text: str) -> list[str]:
    """Return the lines of a `flags.txt` that say something else than their flag's default.

    A flag whose default is not a setting of a run's configuration is among them: its value was chosen for
    this run or this machine.
    """
    usual = {line for config in (TrainConfig, Recipe, ReadOptions) for line in _usual(config)}
    return [line for line in text.splitlines() if line.strip() and line not in usual]


def _usual(config: type) -> list[str]:
    lines = []
    for field, setting in settings_of(config):
        name, value = setting.flag or field.name, setting.default
        if value is dataclasses.MISSING:
            continue
        if isinstance(value, bool):
            lines.append(f"--{name}" if value else f"--no{name}")
        else:
            lines.append(f"--{name}={','.join(value) if isinstance(value, tuple) else value}")
    return lines

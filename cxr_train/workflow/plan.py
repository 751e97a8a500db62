"""The plan of a workflow: its settings, chosen once, and kept for the command that continues it."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

from cxr_data.core import storage
from cxr_data.core.choice import Choice
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.schema import checked, parse_json
from cxr_data.core.wording import counted
from cxr_train.runs.layout import WorkflowLayout


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `plan.json` holds.

    Attributes:
      source: absolute path of the folder of images.
      images: files found in it.
      given: the flags that the user gave, as a command takes them.
      split: that is evaluated and explained.
      conversion: the settings of `make_tfrecords`.
      training: the settings of `cxr_train.main`.
    """

    source: str
    images: int
    given: tuple[str, ...]
    split: str
    conversion: tuple[Choice, ...]
    training: tuple[Choice, ...]

    def save(self, path: pathlib.Path) -> None:
        """Write the plan as JSON."""
        storage.replace(path, (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: pathlib.Path) -> "Plan":
        """Read what `save` wrote. Raise DataError: it is damaged."""
        try:
            return checked(cls, parse_json(storage.read_bytes(str(path))))
        except (DataError, ValueError) as error:
            raise DataError(
                f"{path} is not a plan of cxr_train.run ({error}): choose another --output"
            ) from error


def find_plan(layout: WorkflowLayout, source: str, images: int, given: Sequence[str]) -> Plan | None:
    """Return the plan of an earlier command of the same settings; None where it has converted nothing yet.

    Args:
      layout: of the output.
      source: the folder of images.
      images: files found in it.
      given: the flags that the user gave.

    Raises:
      UsageError: the output is of something else, or of other flags.
      DataError: the source has changed since.
    """
    output = layout.directory
    if not layout.plan.exists() or not layout.shards.exists():
        if output.is_file() or (output.exists() and {*output.iterdir()} - {layout.lock, layout.plan}):
            raise UsageError(
                f"--output={output}: exists already, and another command made it: choose another"
            )
        return None
    plan = Plan.load(layout.plan)
    if plan.source != os.path.abspath(source):
        raise UsageError(
            f"--output={output}: holds the results of the images in {plan.source}: choose another --output"
        )
    if set(plan.given) != set(given):
        raise UsageError(
            f"--output={output}: was begun with {' '.join(plan.given) or 'no flags'}, not with "
            f"{' '.join(given) or 'none'}: repeat these flags, or choose another --output"
        )
    if plan.images != images:
        raise DataError(
            f"{source} has {counted(images, 'image')} now, and had {plan.images:,} when {output} was "
            "begun: choose another --output"
        )
    return plan

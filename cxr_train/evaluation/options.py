"""What an evaluation computes; apart from `evaluator`, as it needs no TensorFlow."""

import dataclasses
import pathlib
from collections.abc import Mapping

from cxr_data.core.errors import UsageError
from cxr_data.core.settings import check_settings, setting
from cxr_data.stats.bootstrap import RESAMPLES
from cxr_train.evaluation.class_map import parse_class_map

SOURCE = "source"
"""Of `--by`: what the records say themselves."""

PROBE_IMAGES = 256
"""In a sample: of three classes the standard error of an AUROC of 0.8 is 0.03, for 768 predictions."""


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What an evaluation computes.

    Attributes that are no settings, as the run gives them:
      train_split: of the run, maybe several joined by `+`.
      validation_split: of the run; temperature and thresholds are chosen on it. None where it was
        trained on: what is chosen on images that the model knows is wrong for others.
      compare: where another run's predictions of the same data are; None for none.

    Raises:
      UsageError: a value that makes no sense, naming its flag.
    """

    resamples: int = setting(
        RESAMPLES, "Resamples of the patient bootstrap; a 95 % interval needs 100.", at_least=100
    )
    seed: int = setting(0, "Seed of the patient bootstrap, and of the sample for the probe.", at_least=0)
    train_split: str = "train"
    validation_split: str | None = "validation"
    at_sensitivity: float | None = setting(
        None, "Sensitivity, such as 0.95, that the threshold of each class must reach on validation."
    )
    compare: pathlib.Path | None = None
    class_map: Mapping[str, str] = setting(
        (),
        "Names that the model has for the classes of other data, such as theirs:ours,...; theirs:- "
        "leaves a class out, and *:- all others that the model does not know.",
        parse=parse_class_map,
    )
    probe_images: int = setting(
        PROBE_IMAGES,
        "Largest number of images on which the model is also run without the lungs, on the lungs alone "
        "and at one brightness; 0 for none.",
        at_least=0,
    )

    by: tuple[str, ...] = setting(
        (),
        "Columns by which every metric is also given for each group of images: source (the hospital or data "
        "set), or columns of --by_table such as sex; many numbers, such as ages, are cut into bands of 20.",
    )
    by_table: str = setting(
        "",
        "CSV file with the columns of --by, and one with the path or name of each image file.",
        path=True,
        local=True,
    )

    adapt_batch_norm: int = setting(
        0,
        "Number of images of the split, without their labels, on which BatchNorm's statistics are measured "
        "before it is evaluated (AdaBN, a test-time method); 0 for none.",
        at_least=0,
    )
    prior_correction: bool = setting(
        False,
        "Whether probabilities are corrected for the shares of the classes in the split, estimated without "
        "its labels (a test-time method).",
    )

    @property
    def test_time(self) -> str:
        """Name of the test-time methods, such as `adabn256-prior`; empty without any."""
        adapted = f"adabn{self.adapt_batch_norm}" if self.adapt_batch_norm else ""
        return "-".join(filter(None, (adapted, "prior" if self.prior_correction else "")))

    def __post_init__(self) -> None:
        check_settings(self)
        if self.by_table and not set(self.by) - {SOURCE}:
            raise UsageError(f"--by_table={self.by_table}: name its columns with --by")
        if set(self.by) - {SOURCE} and not self.by_table:
            column = next(name for name in self.by if name != SOURCE)
            raise UsageError(f"--by={column}: name the CSV file that has this column with --by_table")
        if self.at_sensitivity is not None and not 0 < self.at_sensitivity <= 1:
            raise UsageError(
                f"--at_sensitivity={self.at_sensitivity}: must be above 0 and at most 1, such as 0.95"
            )

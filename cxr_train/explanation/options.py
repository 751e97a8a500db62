"""What an explanation shows, and where it goes; apart from `explainer`, as it needs no TensorFlow."""

import dataclasses
import pathlib

from cxr_data.core.errors import UsageError
from cxr_data.core.settings import check_settings, setting
from cxr_data.records.manifest import Manifest
from cxr_train.evaluation.stored import place_of
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.saved_run import usual_split


@dataclasses.dataclass(frozen=True)
class ExplainOptions:
    """What to explain."""

    split: str = setting(
        "", "Split to explain; by default the run's validation split or fold, of other data validation."
    )
    classes: tuple[str, ...] = setting((), "Names of the classes that get galleries; all by default.")
    images: tuple[str, ...] = setting(
        (), "Ids of images that are shown at every depth; a true positive of each class by default."
    )
    layers: tuple[str, ...] = setting(
        (),
        "Names of the layers to map, of which the last makes the galleries and is checked; the end of each "
        "resolution stage by default.",
    )
    filter_layers: tuple[str, ...] = setting(
        (),
        "Names of the layers whose filters are shown; by default the end of the second stage and the last, "
        "for VGG16 the study's block2_conv2 and block5_conv3.",
    )
    gallery_size: int = setting(4, "Cases in each gallery.", at_least=1)
    check_images: int = setting(32, "Images of the occlusion check.", at_least=1)
    filters: int = setting(6, "Channels of each layer whose filters are shown; 0 for none.", at_least=0)
    filter_steps: int = setting(64, "Steps of the gradient ascent that shows a filter.", at_least=1)
    overwrite: bool = setting(False, "Whether to replace an earlier explanation of the split.")

    def __post_init__(self) -> None:
        check_settings(self)

    def of_run(self, config: TrainConfig, manifest: Manifest) -> "ExplainOptions":
        """Return the options with a split, for a run and the data to explain."""
        split = self.split or usual_split(config.layout.directory, config, manifest)
        return dataclasses.replace(self, split=split)


def new_place(run_dir: pathlib.Path, manifest: Manifest, options: ExplainOptions) -> pathlib.Path:
    """Return the folder that the explanation of some data goes to.

    Raises:
      UsageError: an unknown class, or there is an explanation already.
    """
    for name in options.classes:
        if name not in manifest.class_names:
            choices = ", ".join(manifest.class_names)
            raise UsageError(f"--classes={name}: no such class; choose from {choices}")
    # What the run's page shows under the name of a split is of its own images.
    below = place_of(run_dir, manifest, named=True)
    folder = RunLayout(run_dir / below).explanation(options.split)
    if folder.exists() and not options.overwrite:
        raise UsageError(f"{folder} is there already; pass --overwrite to replace it")
    return folder

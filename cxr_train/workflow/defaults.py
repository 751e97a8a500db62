"""The default settings, by the number of images and the machine, each with its reason."""

import dataclasses
from collections.abc import Mapping

from cxr_data.core.choice import Choice
from cxr_data.core.errors import UsageError
from cxr_data.sources.splits import fractions_of
from cxr_train.workflow.machine import Machine

DRAWN_SPLITS = "train:0.7,validation:0.15,test:0.15"
_DRAWN_SHARE = 0.7
_KEPT_SPLITS = "train:0.85,validation:0.15"
_CPU_PIXELS, _GPU_PIXELS = 224, 360
# Images that are trained on in all epochs together: some ten minutes on two cores, or on a GPU.
_SEEN_FROZEN, _SEEN_ON_CPU, _SEEN_ON_GPU = 20_000, 10_000, 300_000
_LEAST_EPOCHS, _MOST_EPOCHS = 5, 50
_PATIENCE = 8
_BATCHES, _LEAST_BATCH, _STEPS_OF_AN_EPOCH = (32, 16, 8), 4, 10


@dataclasses.dataclass(frozen=True)
class Source:
    """What is known of the images before they are converted.

    Attributes:
      images: by split, "" being that of all images where the source has no splits.
      place: the folder or CSV.
      has_split_file: whether a split file says the splits.
    """

    images: Mapping[str, int]
    place: str
    has_split_file: bool = False

    @property
    def has_splits(self) -> bool:
        """Whether the source says which split an image belongs to."""
        return set(self.images) != {""}

    @property
    def training_images(self) -> int:
        """About how many images will be trained on."""
        if not self.has_splits:
            return round(self.images[""] * _DRAWN_SHARE)
        return self.images.get("train", 0)

    def explained_split(self, splits: str) -> str:
        """Return the split that is evaluated in the end: test, or validation where there is no test.

        Args:
          splits: as the conversion is given it, `--splits`.

        Raises:
          UsageError: it makes no train split, or neither of the others.
        """
        fractions = fractions_of(splits, self.has_splits)
        own = set(self.images) if self.has_splits else set()
        if fractions is None and not own:
            raise UsageError(
                f"--splits={splits}: {self.place} has no splits of its own; give shares, such as "
                f"{DRAWN_SPLITS}"
            )
        made = own if fractions is None or own & fractions.keys() else set()
        made = made | set(fractions or ())
        for name in ("test", "validation"):
            if name in made and "train" in made:
                return name
        raise UsageError(
            f"--splits={splits}: must name train, and validation or test, such as {DRAWN_SPLITS}"
        )


def conversion_defaults(source: Source, machine: Machine) -> list[Choice]:
    """Return how the images are converted, by the flags of `make_tfrecords`."""
    size = Choice("size", str(_GPU_PIXELS), "as the study")
    if not machine.gpus:
        size = Choice("size", str(_CPU_PIXELS), f"there is no GPU; {_GPU_PIXELS} has 2.6 times the pixels")
    return [
        size,
        Choice("dtype", "uint8", "pixels are brought to 8 bits"),
        Choice("channels", "1", "an X-ray is gray; with uint8, a twelfth of the default's bytes"),
        _splits(source),
    ]


def _splits(source: Source) -> Choice:
    named = " and ".join(sorted(source.images))
    if source.has_split_file:
        return Choice("splits", "folders", f"the split file has {named}")
    if not source.has_splits:
        return Choice("splits", DRAWN_SPLITS, "by patient; the source has no splits of its own")
    if "validation" in source.images:
        return Choice("splits", "folders", f"the source has {named}")
    return Choice("splits", _KEPT_SPLITS, f"the source has {named}, but no validation")


def choose_backbone(machine: Machine) -> Choice:
    """Return the network."""
    if machine.gpus:
        return Choice("backbone", "xception", "one of the study's best, and fast on a GPU")
    return Choice("backbone", "mobilenet_v2", "the fastest network; there is no GPU")


def choose_weights(images: int, at_hand: bool, where: str) -> Choice:
    """Return the weights that the network begins with.

    Args:
      images: of the source.
      at_hand: whether ImageNet's can be had.
      where: where from, or where they were looked for.
    """
    if at_hand:
        return Choice("weights", "imagenet", where)
    return Choice(
        "weights",
        "none",
        f"ImageNet's are {where}; without them a network learns little from {images:,} images",
    )


def training_defaults(
    source: Source, machine: Machine, *, pretrained: bool, given: Mapping[str, str]
) -> list[Choice]:
    """Return how the network is trained, by the flags of `cxr_train.main`.

    Args:
      source, machine: on what.
      pretrained: whether the network begins with trained weights.
      given: the flags that the user gave, by name, as text: other defaults follow them.
    """
    chosen: list[Choice] = []
    if pretrained:
        chosen.append(Choice("input_range", "imagenet", "the pixels that the weights were trained on"))
    if pretrained and not machine.gpus:
        chosen.append(Choice("freeze", "backbone", "only the head is trained; there is no GPU"))
    frozen = (given.get("freeze") or ("backbone" if len(chosen) > 1 else "none")) == "backbone"
    if frozen and "unfreeze_at_epoch" not in given:
        chosen.append(Choice("learning_rate", "0.001", "a new head alone takes larger steps"))
    seen = _SEEN_ON_GPU if machine.gpus else _SEEN_FROZEN if frozen else _SEEN_ON_CPU
    images = max(source.training_images, 1)
    epochs = min(max(round(seen / images), _LEAST_EPOCHS), _MOST_EPOCHS)
    why = f"{epochs * images:,} images are trained on in all"
    patience = [
        Choice("early_stopping", str(_PATIENCE), "so many epochs without a better one end the training")
    ]
    if "train_split" in given:  # maybe of the validation split too, which says which epoch is better
        patience = []
    return [
        *chosen,
        _batch_size(images, max(machine.gpus, 1)),
        Choice("epochs", str(epochs), why),
        *patience,
    ]


def _batch_size(images: int, gpus: int) -> Choice:
    """Return the largest batch of which an epoch has enough steps, or the smallest of all, for all GPUs."""
    batches = (batch for batch in _BATCHES if batch * _STEPS_OF_AN_EPOCH <= images)
    batch = -(-next(batches, _LEAST_BATCH) // gpus) * gpus
    return Choice("batch_size", str(min(batch, images)), f"there are about {images:,} training images")

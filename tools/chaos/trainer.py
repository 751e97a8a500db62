"""Kills of a training run: resumed, it ends as the run that was never stopped, bit for bit."""

import dataclasses
import functools
import random
import shutil
from pathlib import Path

from recorded_results import results_of
from shards import random_images, write_shards

# Each life is a fork, which is not to wait for what its evaluation and its page import.
import matplotlib.figure  # noqa: F401 # isort: skip
import sklearn.metrics  # noqa: F401 # isort: skip
from cxr_train.lifecycle.training import train
from cxr_train.loop.stop import Stopped
from cxr_train.loop.trainer import Trainer
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from tools.chaos.attack import Attack
from tools.chaos.life import Life, strike

_MOST_BLOWS = 8
# For each stage of the input, at the end of a run: the half second of a user's run is a fifth of a life.
_MEASURED_SECONDS = 0.02
# Of each ten tries, how many are with which: VGG16 has by far the fewest operations to trace.
_CASES = (
    (7, "vgg16", 32, Recipe(optimizer="sgd", momentum=0.0)),
    (2, "vgg16", 32, Recipe(freeze="backbone", ema=0.5, augment="rotation,brightness")),
    (1, "mobilenet_v2", 32, Recipe()),
)


@dataclasses.dataclass
class Case:
    """A training run.

    Attributes:
      config: of the run, in a directory that is not its own.
      undisturbed: what it comes to.
      seconds: that it takes.
    """

    config: TrainConfig
    undisturbed: dict[str, object]
    seconds: float = 0.0

    def train(self, run_dir: Path) -> None:
        """Begin the run, or resume it, as `python -m cxr_train.main` does with and without `--resume`."""
        try:
            train(
                dataclasses.replace(self.config, run_dir=str(run_dir)),
                resume=RunLayout(run_dir).config.exists(),
            )
        except Stopped:
            return  # its state is saved

    def assert_the_same(self, run_dir: Path) -> None:
        """Assert that the run has ended, as the one that was never stopped."""
        assert RunLayout(run_dir).throughput.exists(), "it says that it is done, and has not ended"
        results = results_of(run_dir)
        names = sorted(results.keys() | self.undisturbed.keys())
        other = [name for name in names if results.get(name) != self.undisturbed.get(name)]
        assert not other, f"not as undisturbed: {', '.join(other)}"


class TrainerKills(Attack):
    """SIGKILL, SIGTERM, SIGSTOP with SIGCONT, to runs of the real backbones."""

    name, unit, usual = "trainer", "kills", 200

    def prepare(self) -> None:
        """Train each case undisturbed."""
        measure = Trainer.throughput
        Trainer.throughput = lambda trainer: measure(trainer, _MEASURED_SECONDS)
        self._cases: list[Case] = []
        for size in {size for _, _, size, _ in _CASES}:
            splits = {"train": random_images(16, size), "validation": random_images(6, size, seed=1)}
            write_shards(self.folder / f"data{size}", splits)
        for weight, backbone, size, recipe in _CASES:
            run_dir = self.folder / "undisturbed"
            config = TrainConfig(
                backbone,
                str(self.folder / f"data{size}"),
                str(run_dir),
                epochs=2,
                batch_size=4,
                weights="none",
                dropout=0.3,
                deterministic=True,
                xla="off",
                save_minutes=0.001,
                recipe=recipe,
            )
            case = Case(config, {})
            life = Life(functools.partial(case.train, run_dir), self._log)
            life.succeed()
            case.seconds, case.undisturbed = life.seconds, results_of(run_dir)
            shutil.rmtree(run_dir)
            self._cases += [case] * weight

    def attempt(self, seed: int) -> int:
        """Strike up to eight times in a row, then let it finish."""
        rng = random.Random(seed)
        case, run_dir = rng.choice(self._cases), self.folder / "run"
        shutil.rmtree(run_dir, ignore_errors=True)
        blows = 0
        for _ in range(rng.randint(1, _MOST_BLOWS)):
            life = Life(lambda: case.train(run_dir), self._log)
            try:
                if life.wait(rng.random() * case.seconds) is not None:
                    life.succeed()
                    case.seconds = min(case.seconds, life.seconds) if blows == 0 else case.seconds
                    break
                blows += 1
                ends = strike(life, rng)
                code = life.wait()
                assert code is not None, f"it hangs: {life.last_line()}"
                assert ends or code == 0, f"exit code {code}: {life.last_line()}"
                assert code in (0, -9, -15), f"exit code {code}: {life.last_line()}"
                if code == 0 and not ends:
                    break  # it was frozen, and has gone on to its end
            finally:
                life.end()
        Life(lambda: case.train(run_dir), self._log).succeed()
        case.assert_the_same(run_dir)
        return blows

    @property
    def _log(self) -> Path:
        return self.folder / "log"


ATTACK = TrainerKills

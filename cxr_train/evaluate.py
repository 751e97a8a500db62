"""Evaluates a run on a split: every image once, its probabilities to a CSV, its metrics to JSON.

    python -m cxr_train.evaluate --run_dir=RUN_DIR [--split=test] [--data=DIR] [--compare=OTHER_RUN]

What is written is described in `evaluation.evaluator`. Other data than the run's own goes to
`RUN_DIR/external/NAME`, so that nothing of the run is replaced.
"""

import dataclasses

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.settings import setting
from cxr_data.input.options import ReadOptions
from cxr_train.engine.placement_names import XLA, CompilationOptions
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.plan import plan_evaluation
from cxr_train.flags.compiled import kept_by_flags
from cxr_train.flags.read_flags import read_options_from_flags
from cxr_train.flags.run_directory import RunDataOptions, with_local_run
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.notice import NOTICE


@dataclasses.dataclass(frozen=True)
class TargetOptions(RunDataOptions):
    """What to evaluate, how, and where to write."""

    split: str | None = setting(
        None, "Split to evaluate; by default the run's validation split or fold, of other data validation."
    )
    output: str | None = setting(
        None,
        "Folder for the results; --run_dir by default, and a folder in it for other data.",
        path=True,
        local=True,
    )
    compare: str | None = setting(
        None, "Run directory to compare with; it must be evaluated on the same images.", path=True, local=True
    )
    batch_size: int | None = setting(None, "Images in a step; the run's own by default.", at_least=1)
    xla: str = setting("auto", "Whether XLA compiles the prediction.", choices=XLA)


def main() -> int:
    """Evaluate a run directory from flags."""
    target = from_flags(TargetOptions)
    run_dir, read = target.run_dir, read_options_from_flags(data_service="")
    config = TrainConfig.load(RunLayout(run_dir).config)
    plan = plan_evaluation(
        run_dir,
        config,
        target.split,
        data=target.data,
        options=from_flags(EvaluationOptions, train_split="", validation_split=None, compare=None),
        output=target.output,
        compare=target.compare,
    )
    with kept_by_flags():
        from cxr_train.lifecycle.run_evaluation import evaluate_run

        evaluate_run(run_dir, config, plan, batch_size=target.batch_size, xla=target.xla, read=read)
    print(NOTICE)
    return 0


def console_main() -> None:
    """Run the command."""
    define_flags(TargetOptions, EvaluationOptions, CompilationOptions)
    define_flags(ReadOptions, leave_out=["data_service"])
    command.run(with_local_run(main))


if __name__ == "__main__":
    console_main()

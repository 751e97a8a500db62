"""Joins the runs of all folds: predictions of every image by a model that had not seen it.

    python -m cxr_train.main --fold=1of5 --run_dir=runs/fold1 ...      (and 2of5, ...)
    python -m cxr_train.folds --runs=runs/fold1,runs/fold2,... --output=runs/folds

Writes `predictions_out_of_fold.csv`, `metrics_out_of_fold.json` (as an evaluation, with the spread over the
folds), `label_issues.csv`, labels that are probably wrong, the most doubtful first (nothing is removed), and
`report/index.html`, with the spread and the X-rays of the most doubtful labels.
"""

import dataclasses
import json
import pathlib
from typing import Any

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core import storage
from cxr_data.core.csv_table import csv_bytes
from cxr_data.core.settings import required, setting
from cxr_data.core.shown import say
from cxr_data.core.wording import counted, wrapped
from cxr_data.records.split_names import parse_split
from cxr_data.stats.bootstrap import RESAMPLES
from cxr_train.evaluation.analysis import analyse
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.out_of_fold import fold_predictions, join_folds, label_issues, spread
from cxr_train.evaluation.predictions import write_predictions
from cxr_train.evaluation.wording import accuracy_name, first_of, too_few
from cxr_train.flags.output_place import prepare_output
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.notice import NOTICE

_NAME = "out_of_fold"
_MOST_NAMED = 4


@dataclasses.dataclass(frozen=True)
class FoldsOptions:
    """Which runs to join, and where to write."""

    runs: tuple[str, ...] = required("Run directories, one of each fold.", path=True, local=True)
    output: str = required("Folder for the results.", path=True, local=True)
    overwrite: bool = setting(False, "Whether to replace the folder if it is there.")
    resamples: int = setting(
        RESAMPLES, "Resamples of the patient bootstrap; a 95 % interval needs 100.", at_least=100
    )
    seed: int = setting(0, "Seed of the patient bootstrap.", at_least=0)


def main() -> int:
    """Join the runs that the flags name."""
    options = from_flags(FoldsOptions)
    output = pathlib.Path(options.output)
    prepare_output("output", output, overwrite=options.overwrite, replaces=pathlib.Path.is_dir)
    folds = fold_predictions(options.runs)
    joined = join_folds(list(folds.values()))
    evaluation = EvaluationOptions(resamples=options.resamples, seed=options.seed, validation_split=None)
    summary: dict[str, Any] = {
        "split": _NAME,
        "runs": list(folds),
        **analyse(joined, evaluation),
        "spread": spread(folds),
    }
    issues = label_issues(joined)
    layout = RunLayout(output)
    output.mkdir(parents=True, exist_ok=True)
    write_predictions(layout.predictions(_NAME), joined)
    storage.replace(layout.metrics(_NAME), (json.dumps(summary, indent=2) + "\n").encode())
    header = ["id", "group", "label", "suggested", "margin"]
    rows = [[row[key] if key != "margin" else f"{row[key]:.6g}" for key in header] for row in issues]
    storage.replace(output / "label_issues.csv", csv_bytes([header, *rows]))
    from cxr_train.reporting.folds_page import write_folds_page  # its pictures and templates take time

    config = TrainConfig.load(RunLayout(pathlib.Path(options.runs[0])).config)
    pool = parse_split(config.validation_split).pool
    page = write_folds_page(output, summary, issues, config.data, pool)
    for line in _lines(summary, len(issues), len(joined.ids)):
        print(wrapped(line, rest="  "))
    say(f"written to {output}; page: {page}")
    print(NOTICE)
    return 0


def _lines(summary: dict[str, Any], issues: int, images: int) -> list[str]:
    of_auroc = summary["spread"]["auroc"]
    interval = summary["intervals"]["macro"]["auroc"]
    auroc = summary["macro"]["auroc"]
    reach = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    lines = [f"{counted(images, 'image')}, each predicted by a model that was not trained on it"]
    if auroc is not None:
        lines.append(f"mean AUROC {auroc:.3f}{reach} [95 % interval], of all images together")
    # Of all images together, findings with too few of them are left out as well.
    left_out = [name for name in of_auroc["left_out"] if name not in summary.get("too_few", ())]
    without = f", without {first_of(left_out, _MOST_NAMED)} (undefined in a fold)" if left_out else ""
    if of_auroc["mean"] is not None:
        lines.append(
            f"mean AUROC of the {len(of_auroc['folds'])} folds: {of_auroc['mean']:.3f}, from "
            f"{of_auroc['low']:.3f} to {of_auroc['high']:.3f}{without}"
        )
    lines.append(f"{accuracy_name(summary)}: {summary['accuracy']:.3f}")
    lines += too_few(summary, _MOST_NAMED)
    return [*lines, f"{counted(issues, 'label')} of them are doubtful: see label_issues.csv"]


def console_main() -> None:
    """Run the command."""
    define_flags(FoldsOptions)
    command.run(main)


if __name__ == "__main__":
    console_main()

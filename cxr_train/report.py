"""Makes the page of a run: RUN_DIR/report/index.html, self-contained, readable without network.

python -m cxr_train.report --run_dir=RUN_DIR
"""

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_flags, from_flags
from cxr_data.core.shown import say
from cxr_train.flags.run_directory import RunOptions, with_local_run
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.mirror import published


def main() -> int:
    """Make the report of a run directory from flags."""
    run_dir = from_flags(RunOptions).run_dir
    TrainConfig.load(RunLayout(run_dir).config)
    from cxr_train.reporting.page import write_report

    say(f"report: {published(str(write_report(run_dir)))}")
    return 0


def console_main() -> None:
    """Run the command."""
    define_flags(RunOptions)
    command.run(with_local_run(main))


if __name__ == "__main__":
    console_main()

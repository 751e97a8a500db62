"""As `fuzz`, for what commands that start runs read: files of flags, a search's ledger, folds, transfers."""

import contextlib
import hashlib
import json
import pathlib

import numpy as np
from absl import flags
from emulated_trials import SPACE, Curves, curves
from fuzz import changed, fuzzed, mutated
from shards import CLASS_NAMES

from cxr_data.records.layout import MANIFEST_NAME
from cxr_data.records.manifest import read_manifest
from cxr_data.records.split_names import fold_splits
from cxr_train.ablation.grid import read_grid, varied_flags
from cxr_train.evaluation.analysis import analyse
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.out_of_fold import fold_predictions, join_folds, label_issues, spread
from cxr_train.evaluation.predictions import NamedPredictions, write_predictions
from cxr_train.flags.training import config_from_flags, define_training_flags
from cxr_train.reporting.folds_page import write_folds_page
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.searching import table
from cxr_train.searching.ledger import Ledger
from cxr_train.searching.proposals import Proposals
from cxr_train.searching.space import read_space
from cxr_train.searching.study import Plan, run_search, settings_of_search
from cxr_train.transferring import text
from cxr_train.transferring.document import make_tables
from cxr_train.transferring.methods import METHODS, read_methods
from cxr_train.transferring.plan import Budget, Comparison
from cxr_train.transferring.run import TransferRun
from cxr_train.transferring.runner import cost_lines
from cxr_train.transferring.targets import Target

IMAGES = 36
METHODS_FILE = {"erm": {}, "coral": {"domain_method": "coral", "domain_strength": [0.1, 10.0]}}
SPACE_FILE = {
    "head": ["", "8"],
    "dropout": [0, {"dropout": 0.5, "dropout_after": "head_1"}],
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
}
GRID_FILE = {"plain": {"backbone": "vgg16"}, "dropout": {"head": "8", "dropout": 0.5}}


def parse_flags(given: dict[str, str]) -> None:
    """What a command does with the flags of a run, but for those that no trainer has."""
    values = flags.FlagValues()
    define_training_flags(values)
    words = [f"--{name}={value}" for name, value in given.items() if name in values]
    with contextlib.suppress(flags.Error):
        values(["run", "--data=shards", "--backbone=vgg16", *words])
        config_from_flags(values)


def fuzz_space(data, run, tmp_path, cases):
    path = tmp_path / "space.json"

    def opened(content):
        path.write_bytes(content)
        space = read_space(str(path))
        first = space.usual({"dropout": "0"})
        assert space.has(first)
        Proposals(space, "random", 0, first).distributions()
        drawn = space.drawn(np.random.default_rng(0))
        assert space.has(drawn)
        parse_flags(space.flags(drawn))

    fuzzed(changed(SPACE_FILE) | mutated(json.dumps(SPACE_FILE).encode()), opened, cases)


def fuzz_grid(data, run, tmp_path, cases):
    path = tmp_path / "grid.json"

    def opened(content):
        path.write_bytes(content)
        grid = read_grid(str(path))
        varied_flags(grid)
        for one in grid:
            parse_flags(dict(one.flags))

    fuzzed(changed(GRID_FILE) | mutated(json.dumps(GRID_FILE).encode()), opened, cases)


def fuzz_methods(data, run, tmp_path, cases):
    path = tmp_path / "methods.json"

    def opened(content):
        path.write_bytes(content)
        for method in read_methods(str(path)):
            for draw in range(2):
                parse_flags(method.drawn(draw, 0))

    fuzzed(changed(METHODS_FILE) | mutated(json.dumps(METHODS_FILE).encode()), opened, cases)


def fuzz_trials(data, run, tmp_path, cases):
    """The ledger of a search, from which it goes on to its table."""
    plan, first, of = Plan(4, 9), SPACE.usual({}), curves(3)
    path = tmp_path / "trials.jsonl"

    def search() -> None:
        ledger = Ledger(path, settings_of_search(SPACE, plan, "random", 3, first, {}))
        result = run_search(SPACE, plan, Proposals(SPACE, "random", 3, first), ledger, Curves(of))
        found = table.make_table(result, plan, ledger, metric="accuracy", sampler="random", seed=3)
        table.write_table(tmp_path, found)

    search()
    whole = path.read_bytes()
    lines = whole.splitlines()

    def opened(content):
        path.write_bytes(content)
        search()

    def put(place):
        others = changed(json.loads(lines[place]))
        return others.map(lambda line: b"\n".join([*lines[:place], line, *lines[place + 1 :], b""]))

    fuzzed(put(0) | put(1) | put(2) | put(3) | put(len(lines) - 1) | mutated(whole), opened, cases)


def write_fold_run(run_dir: pathlib.Path, data: pathlib.Path, train: str, validation: str, seed: int) -> None:
    """A run with a best model, and what that said of its validation split."""
    run_dir.mkdir(parents=True)
    layout = RunLayout(run_dir)
    splits = {"train_split": train, "validation_split": validation, "monitor": "macro_auroc"}
    TrainConfig("vgg16", str(data), str(run_dir), epochs=1, weights="none", **splits).save(layout.config)
    layout.manifest.write_bytes((data / MANIFEST_NAME).read_bytes())
    layout.best_model.write_bytes(b"a model")
    layout.throughput.write_text('{"seconds": 1.5}')
    model = hashlib.sha256(b"a model").hexdigest()
    layout.metrics(validation).write_text(json.dumps({"model_sha256": model}))
    write_said(layout.predictions(validation), seed)


def write_said(path: pathlib.Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    ids = tuple(f"{seed}/{number}.png" for number in range(IMAGES))
    said = draw.dirichlet(np.ones(len(CLASS_NAMES)), IMAGES).round(3)
    labels = np.arange(IMAGES) % len(CLASS_NAMES)
    write_predictions(path, NamedPredictions("", CLASS_NAMES, ids, ids, labels, said))


def fuzz_each(files, opened, cases):
    """Fuzzes one of several files at a time; the others stay."""
    for path in files:
        whole = path.read_bytes()

        def changes(content, path=path):
            path.write_bytes(content)
            opened()

        is_document = path.suffix == ".json"
        strategy = changed(json.loads(whole)) | mutated(whole) if is_document else mutated(whole)
        try:
            fuzzed(strategy, changes, cases // len(files) + 1)
        finally:
            path.write_bytes(whole)


def fuzz_folds(data, run, tmp_path, cases):
    """The runs that `cxr_train.folds` joins."""
    runs = [tmp_path / f"fold{number}" for number in (1, 2)]
    for number, run_dir in enumerate(runs, start=1):
        write_fold_run(run_dir, data, *fold_splits("train+validation", number, 2), seed=number)
    layout, split = RunLayout(runs[0]), "train+validation@1of2"
    (tmp_path / "joined").mkdir()

    def opened():
        folds = fold_predictions(list(map(str, runs)))
        joined = join_folds(list(folds.values()))
        options = EvaluationOptions(resamples=100, validation_split=None)
        summary = {"runs": list(folds), **analyse(joined, options), "spread": spread(folds)}
        write_folds_page(tmp_path / "joined", summary, label_issues(joined), str(data), "train+validation")

    opened()
    files = [layout.config, layout.predictions(split), layout.metrics(split), layout.manifest]
    fuzz_each(files, opened, cases)


def fuzz_transfer(data, run, tmp_path, cases):
    """The runs of which the table of `cxr_train.transfer` is made."""
    manifest = read_manifest(str(data))
    methods = [method for method in METHODS if method.name in ("erm", "coral", "prior_correction")]
    counts = dict.fromkeys(manifest.class_names, 20)
    splits = ("train", "validation", "train", "train", "validation", "train")
    of_training = {"batch_size": 4, "training_images": IMAGES, "smallest": None, "training_sources": 1}
    target = Target("nih", IMAGES, counts, *splits, **of_training, unknown=0, shared=0, obstacle="")

    def compared() -> Comparison:
        runs = []
        for method in methods[:2]:
            place = tmp_path / method.name
            if not place.exists():
                write_fold_run(place, data, "train", "validation", seed=1)
                write_said(RunLayout(place).predictions("train"), seed=2)
            wanted = {"weights": "none", "monitor": "macro_auroc", "epochs": 1}
            config = TrainConfig("vgg16", str(data), str(place), **wanted)
            runs.append(TransferRun(method.name, {}, config, cell="nih", tested="train"))
        budget = Budget(1, [0], {})
        none: tuple = ()
        return Comparison(
            manifest, methods, budget, [target], [target], {"nih": runs}, {}, None, None, none, none
        )

    def opened():
        found = compared()
        list(cost_lines(found))
        tables = make_tables(found, {}, resamples=100, sensitivity=0.9)
        text.to_text(tables)
        text.to_csv(tables)

    opened()
    layout = RunLayout(tmp_path / "erm")
    said = [layout.predictions(split) for split in ("train", "validation")]
    fuzz_each([layout.config, layout.throughput, *said], opened, cases)


OF_MANY_RUNS = {
    "space": fuzz_space,
    "grid": fuzz_grid,
    "methods": fuzz_methods,
    "trials": fuzz_trials,
    "folds": fuzz_folds,
    "transfer": fuzz_transfer,
}
"""As `fuzz.FUZZERS`."""

COSTLY = ("folds", "transfer")
"""A case of these takes tenths of a second: four kinds of documents each."""

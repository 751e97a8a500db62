"""The reporting checklists TRIPOD+AI and CLAIM, filled as far as a run directory can fill them.

TRIPOD+AI: Collins et al., BMJ 2024;385:e078378, table 2. CLAIM: Mongan et al., Radiology:
Artificial Intelligence 2020;2(2):e200029, the 42 items of 2020, not those of the update of 2024,
which are numbered otherwise. What only the authors of a study know stays open and is said
to be: it is the longer part.
"""

import dataclasses

from cxr_data.core.wording import counted
from cxr_data.records.in_words import images_by_split
from cxr_train.evaluation import wording
from cxr_train.models.added import POOLINGS
from cxr_train.reporting.record import RunRecord

_RANGES = {"unit": "fed as pixels in [0, 1]", "imagenet": "fed in the range of the pretrained weights"}


@dataclasses.dataclass(frozen=True)
class Item:
    """One item of a checklist.

    Attributes:
      number: such as `12a`.
      topic: in our words.
      answer: from the run; None where the authors have to fill it.
    """

    number: str
    topic: str
    answer: str | None = None


def tripod_ai(record: RunRecord) -> tuple[Item, ...]:
    """Return the items of TRIPOD+AI but for title and abstract, in order, in our words."""
    return (
        Item("3a", "healthcare context, why a model, what models there are"),
        Item("3b", "target population, place in the care pathway, users"),
        Item("3c", "health inequalities between groups"),
        Item("4", "objectives"),
        Item("5a", "sources of the data and how representative they are", _source(record)),
        Item("5b", "dates of collection"),
        Item("6a", "setting: number and place of the centres"),
        Item("6b", "who was eligible"),
        Item("6c", "treatments"),
        Item("7", "data preparation and quality checks", _preparation(record)),
        Item("8a", "outcome: how and when it was assessed", _outcome(record)),
        Item("8b", "who assessed the outcome"),
        Item("8c", "blinding of the outcome"),
        Item("9a", "choice of predictors", "the pixels of one image; no clinical data"),
        Item("9b", "how and when predictors were measured"),
        Item("9c", "who assessed predictors", "nobody: the network is given the pixels"),
        Item("10", "how the sample size was arrived at"),
        Item("11", "missing data", _excluded(record)),
        Item("12a", "how the data were divided", _partition(record)),
        Item("12b", "how predictors were scaled", _RANGES[record.config.input_range]),
        Item("12c", "type of model, building steps, tuning, validation", _training(record)),
        Item("12d", "handling of differences between centres"),
        Item("12e", "measures of performance", _measures(record)),
        Item("12f", "updating of the model", "none: evaluated as it was trained"),
        Item("12g", "how predictions were calculated", "best.keras, by cxr_train.evaluate or predict"),
        Item("13", "class imbalance", _imbalance(record)),
        Item("14", "fairness: approaches and rationale"),
        Item("15", "output of the model", _output(record)),
        Item(
            "16",
            "differences between development and evaluation data",
            None if record.external else "none: splits of the same data",
        ),
        Item("17", "ethical approval"),
        Item("18a", "funding"),
        Item("18b", "conflicts of interest"),
        Item("18c", "protocol"),
        Item("18d", "registration"),
        Item("18e", "availability of the data"),
        Item("18f", "availability of the code", _software(record)),
        Item("19", "involvement of patients and public"),
        Item("20a", "flow of the participants", _excluded(record)),
        Item("20b", "characteristics of the participants"),
        Item("20c", "comparison with the development data"),
        Item("21", "participants and outcomes in each analysis", _counts(record)),
        Item("22", "the full model", _model(record)),
        Item("23a", "performance with intervals", _performance(record)),
        Item("23b", "heterogeneity between groups and centres"),
        Item("24", "results of updating", "none: see 12f"),
        Item("25", "interpretation, fairness included"),
        Item("26", "limitations", "see the limits above; those of the study are the authors' to add"),
        Item(
            "27a",
            "input of poor quality, in use",
            "a file that cannot be read is refused; quality is not judged",
        ),
        Item("27b", "what users have to do and know"),
        Item("27c", "next steps of research"),
    )


def claim(record: RunRecord) -> tuple[Item, ...]:
    """Return the items of CLAIM but for title and abstract, in order, in our words."""
    return (
        Item("3", "scientific and clinical background, intended use"),
        Item("4", "objectives and hypotheses"),
        Item("5", "prospective or retrospective"),
        Item("6", "study goal"),
        Item("7", "data sources", _source(record)),
        Item("8", "eligibility criteria"),
        Item("9", "preprocessing", _preparation(record)),
        Item("10", "selection of data subsets", _excluded(record)),
        Item("11", "definitions of data elements"),
        Item("12", "de-identification"),
        Item("13", "missing data", _excluded(record)),
        Item("14", "definition of the ground truth", _outcome(record)),
        Item("15", "why this ground truth"),
        Item("16", "annotators and their qualifications"),
        Item("17", "annotation tools"),
        Item("18", "variability between annotators"),
        Item("19", "intended sample size"),
        Item("20", "assignment to partitions", _partition(record)),
        Item("21", "level at which partitions are disjoint", _disjoint(record)),
        Item("22", "the model", _model(record)),
        Item("23", "software", _software(record)),
        Item("24", "initial parameters", _initial(record)),
        Item("25", "training", _training(record)),
        Item("26", "selection of the final model", selection(record)),
        Item("27", "ensembling", "none: one network"),
        Item("28", "metrics", _measures(record)),
        Item("29", "statistics and uncertainty", "95 % intervals: bootstrap over patients"),
        Item("30", "robustness or sensitivity analysis"),
        Item("31", "explainability", _explained(record)),
        Item("32", "validation on external data", _external(record)),
        Item("33", "flow of the images", _excluded(record)),
        Item("34", "demographic and clinical characteristics"),
        Item("35", "performance on every partition", _performance(record)),
        Item("36", "estimates of performance and their precision", _performance(record)),
        Item("37", "failure analysis", _failures(record)),
        Item("38", "limitations", "see the limits above; those of the study are the authors' to add"),
        Item("39", "implications for practice", "none: research software, no clinical role"),
        Item("40", "registration"),
        Item("41", "protocol"),
        Item("42", "funding"),
    )


def _source(record: RunRecord) -> str | None:
    if not record.manifest:
        return None
    total = sum(images_by_split(record.manifest).values())
    return f"{counted(total, 'image')} of {record.config.data}; where they come from is the authors' to say"


def _preparation(record: RunRecord) -> str | None:
    manifest = record.manifest
    if not manifest:
        return None
    if record.embedding:
        return f"{record.embedding}, stored as {manifest['dtype']}"
    return (
        f"{'grayscale' if manifest['color'] == 'gray' else 'in colour'}, resized to {manifest['size']} x "
        f"{manifest['size']} px ({manifest['kernel']}), stored as {manifest['dtype']}, "
        f"{_RANGES[record.config.input_range]}"
    )


def _outcome(record: RunRecord) -> str | None:
    if not record.class_names:
        return None
    names = ", ".join(record.class_names)
    if record.is_of_findings:
        return (
            f"each of {names} present, absent, uncertain or unknown, as the tables of the data say; who "
            "labelled it is open"
        )
    return f"class of the image's folder or CSV ({names}); who labelled it is open"


def _excluded(record: RunRecord) -> str | None:
    counts = (record.manifest or {}).get("source_counts")
    if not counts:
        return None
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) + "; quarantine.jsonl names each"


def _partition(record: RunRecord) -> str | None:
    if not record.manifest:
        return None
    sizes = ", ".join(f"{split} {images:,}" for split, images in images_by_split(record.manifest).items())
    return f"{sizes} images; planned before conversion with seed {record.manifest['seed']}"


def _disjoint(record: RunRecord) -> str | None:
    if not record.manifest:
        return None
    return "patient, as far as names or headers identify patients; see the data audit"


def _training(record: RunRecord) -> str:
    config, recipe = record.config, record.config.recipe
    frozen = "all layers trained" if recipe.freeze == "none" else f"frozen: {recipe.freeze}"
    return (
        f"{len(record.epochs)} of {counted(config.epochs, 'epoch')}, batches of {config.batch_size}, "
        f"{recipe.optimizer} at {config.learning_rate:g}, {_loss(record)}, {frozen}, "
        f"augmentation {recipe.augment}, seed {config.seed}; nothing was tuned by this run itself"
    )


def _loss(record: RunRecord) -> str:
    """Return what was minimised, in words."""
    recipe = record.config.recipe
    domain = "" if recipe.domain_method == "none" else f", domain method {recipe.domain_method}"
    if not record.is_of_findings:
        return f"cross-entropy{domain}"
    focal = f", focal with gamma {recipe.focal_gamma:g}" if recipe.focal_gamma else ""
    counted_as = "" if recipe.uncertain == "ignore" else f", uncertain ones as {recipe.uncertain}"
    return f"binary cross-entropy of each finding over its known labels{counted_as}{focal}{domain}"


def _imbalance(record: RunRecord) -> str:
    weights = record.config.recipe.class_weights
    if record.is_of_findings:
        of_positives = f"weights of the positive labels in the loss: {weights}"
        return "no finding was reweighted" if weights == "none" else of_positives
    return "no class was reweighted" if weights == "none" else f"class weights in the loss: {weights}"


def selection(record: RunRecord) -> str | None:
    """Return which epoch was kept, and why; None where there is none."""
    best = record.best_epoch
    if not best:
        return None
    monitor, split = record.config.monitor, record.config.held_out_validation
    if split is None:
        return f"the last epoch, {best['epoch']}: no split was held out to pick one"
    metric = "lowest loss" if monitor == "loss" else f"highest {monitor.replace('_', ' ')}"
    return f"the epoch with the {metric} on the {split} split: epoch {best['epoch']}"


def _initial(record: RunRecord) -> str:
    weights = record.config.weights
    told = {"imagenet": "ImageNet weights", "none": "random"}.get(weights, f"the file {weights}")
    return f"{told}; the head random with seed {record.config.seed}"


def _model(record: RunRecord) -> str:
    config = record.config
    head = "-".join(map(str, config.head)) or "no hidden layer"
    dropout = f", dropout {config.dropout:g} after {config.dropout_after}" if config.dropout else ""
    if record.embedding:
        return f"{record.embedding}; dense {head}{dropout}, which best.keras holds"
    gates = f" with {config.attention} attention" if config.attention != "none" else ""
    pooling = POOLINGS[config.pooling]
    return f"{config.backbone}{gates}, {pooling}, dense {head}{dropout}; best.keras holds it whole"


def _output(record: RunRecord) -> str | None:
    if not record.class_names:
        return None
    names = ", ".join(record.class_names)
    if record.is_of_findings:
        return f"a probability for each of {names}, each by itself; the finding is called from 0.5 on"
    return f"a probability for each of {names}, summing to 1; the largest is the class"


def _measures(record: RunRecord) -> str:
    label, share = "class", "accuracy"
    if record.is_of_findings:
        label, share = "finding, over its known labels,", "share of known labels that is right"
    return (
        f"sensitivity, specificity, precision, F1, AUROC and AUPRC of each {label} and their mean; {share}; "
        "calibration: expected calibration error, reliability diagram"
    )


def _software(record: RunRecord) -> str | None:
    environment = record.environment
    if not environment:
        return None
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
    return versions + (f"; commit {environment['commit']}" if environment["commit"] else "")


def _counts(record: RunRecord) -> str | None:
    told = []
    for split in record.splits:
        if split.metrics:
            classes = ", ".join(f"{name} {row['images']}" for name, row in split.metrics["per_class"].items())
            patients = f" of {counted(split.groups, 'patient')}" if split.groups else ""
            told.append(f"{split.name}: {counted(split.metrics['images'], 'image')}{patients} ({classes})")
    return "; ".join(told) or None


def _performance(record: RunRecord) -> str | None:
    told = []
    for split in record.splits:
        if split.metrics and split.metrics.get("accuracy") is not None:
            interval = (split.metrics.get("intervals") or {}).get("accuracy")
            reach = f" (95 %: {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
            share = wording.accuracy_name(split.metrics)
            told.append(f"{split.name}: {share} {split.metrics['accuracy']:.3f}{reach}")
    return "; ".join(told) + "; all of it under Results" if told else None


def _external(record: RunRecord) -> str | None:
    told = []
    for place, split, metrics in record.external:
        accuracy = "undefined" if metrics["accuracy"] is None else f"{metrics['accuracy']:.3f}"
        images = counted(metrics["images"], "image")
        told.append(f"{place}, {split} split: {images}, {wording.accuracy_name(metrics)} {accuracy}")
    return "; ".join(told) + "; where they come from is the authors' to say" if told else None


def _explained(record: RunRecord) -> str | None:
    checks = [split.explanation["occlusion"] for split in record.splits if split.explanation]
    return f"Grad-CAM on the logit; {checks[0]['text']}" if checks else None


def _failures(record: RunRecord) -> str | None:
    shown = [split for split in record.splits if split.explanation]
    return "galleries of false negatives, false positives and confusions above" if shown else None

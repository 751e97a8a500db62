"""Small data sets in the layouts of the public ones, with their quirks, of our own pictures."""

import gzip
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sharder_fixtures import encoded, picture, save

from cxr_data.sources.tables import observations


@dataclass(frozen=True)
class MadeTables:
    """A data set and what must become of it.

    Attributes:
      source: folder of the pictures.
      flags: of make_tfrecords, as its configuration has them.
      labels: {id: {finding: value}} of every picture that is converted, without what is said of all others.
      rest: {id: value} of all other findings.
      patients, splits: {id: name}.
      lost: {id: reason} of what is not converted.
    """

    source: Path
    flags: dict[str, object]
    labels: dict[str, dict[str, int]]
    rest: dict[str, int]
    patients: dict[str, str]
    splits: dict[str, str]
    lost: dict[str, str]


MORE = range(72)
"""Numbers of the further pictures of a maker: every second has a finding, every third is of another split."""


def _view(number: int) -> str:
    return "AP" if number // 2 % 2 else "PA"


def _pictures(root: Path, names: list[str], first: int) -> None:
    for number, name in enumerate(names):
        save(root / name, encoded(picture(first + number, 24, 20)))


def make_nih(root: Path, more: Iterable[int] = ()) -> MadeTables:
    """Two folders of pictures, a header with commas in it, a byte order mark, and the official lists."""
    names = [f"images_001/images/0000000{n}_00{m}.png" for n, m in ((1, 0), (1, 1), (2, 0))]
    names += [f"images_002/images/0000000{n}_000.png" for n in (3, 4)]
    further = [f"images_00{1 if number % 3 else 2}/images/{number + 1000:08}_000.png" for number in more]
    names += further
    _pictures(root / "in", [*names, "images_002/images/00000009_000.png"], 0)
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    )
    findings = ["Cardiomegaly|Emphysema", "No Finding", "Hernia", "Effusion|Pleural_Thickening", "No Finding"]
    findings += ["Effusion" if number % 2 else "No Finding" for number in more]
    present = [set(said.split("|")) - {"No Finding"} for said in findings]
    views = ["PA", "AP", "PA", "PA", "AP", *(_view(number) for number in more)]
    rows = [
        f"{name[-16:]},{said},0,{int(name[-16:-8])},58,M,{view},2682,2749,0.143,0.143,"
        for name, said, view in zip(names, findings, views, strict=True)
    ]
    rows += [rows[2], "00000007_000.png,Mass,0,7,40,F,PA,2048,2500,0.1,0.1,"]
    save(root / "Data_Entry_2017.csv", ("\ufeff" + "\r\n".join([header, *rows]) + "\r\n").encode())
    listed = {of: [name[-16:] for name in names if of in name] for of in ("images_001", "images_002")}
    listed["images_001"].append("00000007_000.png")
    save(root / "train_val_list.txt", "".join(f"{name}\n" for name in listed["images_001"]).encode())
    save(root / "test_list.txt", "\n".join(listed["images_002"]).encode())
    tables = ("Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt")
    return MadeTables(
        root / "in",
        {"labels": "nih", "table": tuple(str(root / name) for name in tables)},
        {name: dict.fromkeys(s, 1) for name, s in zip(names, present, strict=True)},
        dict.fromkeys(names, 0),
        {name: str(int(name[-16:-8])) for name in names},
        {name: "test" if "images_002" in name else "train" for name in names},
        {
            f"00000002_000.png#Data_Entry_2017.csv line {len(names) + 2}": "listed_twice",
            "00000007_000.png": "missing",
            "images_002/images/00000009_000.png": "no_row",
        },
    )  # fmt: skip


_HEALTHY = dict.fromkeys(observations.FINDINGS[1:-1], 0)
_OBSERVED = {
    "1": {"No Finding": 1, **_HEALTHY, "Support Devices": 1},
    "2": {"No Finding": 0, "Cardiomegaly": -1, "Pleural Effusion": 1, "Edema": 0},
    "3": {"No Finding": 0, "Fracture": 1},
}
_CELLS = {
    "1": {"No Finding": "1.0", "Support Devices": "1.0"},
    "2": {"Cardiomegaly": "-1.0", "Pleural Effusion": "1.0", "Edema": "0.0"},
    "3": {"Fracture": "1.0"},
}


def _observed(kind: str) -> str:
    return ",".join(_CELLS[kind].get(name, "") for name in observations.FINDINGS)


def make_chexpert(root: Path, more: Iterable[int] = ()) -> MadeTables:
    """Equal file names in all studies, a prefix that no folder has, lateral views, blanks and -1.0."""
    kinds = {
        "train/patient00001/study1/view1_frontal.jpg": "1",
        "train/patient00002/study1/view1_frontal.jpg": "2",
        "train/patient00002/study2/view1_frontal.jpg": "3",
        "valid/patient64541/study1/view1_frontal.jpg": "1",
    }
    for number in more:
        folder = "train" if number % 3 else "valid"
        kinds[f"{folder}/patient{number + 10000}/study1/view1_frontal.jpg"] = "2" if number % 2 else "1"
    lateral = "train/patient00002/study1/view2_lateral.jpg"
    _pictures(root / "in", [*kinds, lateral], 20)
    header = ",".join(["Path,Sex,Age,Frontal/Lateral,AP/PA", *observations.FINDINGS])
    prefix = "CheXpert-v1.0-small/"
    tables = (str(root / "train.csv"), str(root / "valid.csv"))
    for split in ("train", "valid"):
        rows = [
            f"{prefix}{name},Female,68,Frontal,{'AP' if number < 4 else _view(number)},{_observed(kind)}"
            for number, (name, kind) in enumerate(kinds.items())
            if split in name
        ]
        if split == "train":
            rows.append(f"{prefix}{lateral},Female,87,Lateral,,{_observed('2')}")
            rows.append(
                f"{prefix}train/patient00003/study1/view1_frontal.jpg,Male,1,Frontal,PA,{_observed('1')}"
            )
        save(root / f"{split}.csv", "\n".join([header, *rows]).encode())
    return MadeTables(
        root / "in",
        {"labels": "chexpert", "table": tables, "views": ("AP", "PA")},
        {name: _OBSERVED[kind] for name, kind in kinds.items()},
        dict.fromkeys(kinds, -2),
        {name: name.split("/")[1] for name in kinds},
        {name: "validation" if name.startswith("valid") else "train" for name in kinds},
        {
            lateral: "other_view",
            f"{prefix}train/patient00003/study1/view1_frontal.jpg": "missing",
        },
    )  # fmt: skip


def make_mimic(root: Path, more: Iterable[int] = ()) -> MadeTables:
    """Three packed tables, joined on dicom_id and study_id; reports beside the pictures."""
    pictures = {  # dicom_id: (subject, study, view, split, labels)
        "02aa804e-bde0afdd": ("10000032", "50414267", "PA", "train", "1"),
        "174413ec-4ec4c1f7": ("10000032", "50414267", "LATERAL", "train", "1"),
        "2a2277a9-b0ded155": ("10000764", "57375967", "AP", "validate", "2"),
        "e084de3b-be89b11e": ("10000898", "50771383", "PA", "test", "3"),
    }
    for number in more:
        split = ("train", "validate", "test")[number % 3]
        who, study = f"{number + 11000000}", f"{number + 51000000}"
        pictures[f"{number:08x}-{number:08x}"] = (
            who,
            study,
            _view(number),
            split,
            "2" if number % 2 else "1",
        )
    place = {
        name: f"files/p{who[:2]}/p{who}/s{study}/{name}.jpg"
        for name, (who, study, *_) in pictures.items()
    }  # fmt: skip
    _pictures(root / "in", list(place.values()), 40)
    save(root / "in/files/p10/p10000032/s50414267.txt", b"FINAL REPORT")
    labels = {(who, study): kind for who, study, _, _, kind in pictures.values()}
    columns = sorted(observations.FINDINGS)
    texts = {
        "chexpert": [
            ",".join(["subject_id,study_id", *columns]),
            *(
                ",".join([who, study, *(_CELLS[kind].get(name, "") for name in columns)])
                for (who, study), kind in labels.items()
            ),
        ],
        "metadata": [
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns",
            *(
                f'{n},{who},{s},"CHEST (PA, LAT)",{view},3056,2544'
                for n, (who, s, view, *_) in pictures.items()
            ),
        ],
        "split": [
            "dicom_id,study_id,subject_id,split",
            *(f"{name},{s},{who},{split}" for name, (who, s, _, split, _) in pictures.items()),
        ],
    }
    for name, lines in texts.items():
        save(root / f"mimic-cxr-2.0.0-{name}.csv.gz", gzip.compress("\n".join(lines).encode()))
    splits = {"validate": "validation"}
    return MadeTables(
        root / "in",
        {"labels": "mimic", "table": tuple(str(root / f"mimic-cxr-2.0.0-{name}.csv.gz") for name in texts)},
        {place[name]: _OBSERVED[kind] for name, (*_, kind) in pictures.items()},
        dict.fromkeys(place.values(), -2),
        {place[name]: who for name, (who, *_) in pictures.items()},
        {place[name]: splits.get(split, split) for name, (*_, split, _) in pictures.items()},
        {"files/p10/p10000032/s50414267.txt": "no_row"},
    )  # fmt: skip


def make_padchest(root: Path, more: Iterable[int] = ()) -> MadeTables:
    """Lists in strings with stray blanks and empty names, `unchanged`, no labels at all, numbered folders."""
    two = {"pleural effusion": 1, "cardiomegaly": 1}
    said = {
        "0/2168_02-089-127.png": ("['pleural effusion', ' cardiomegaly', '']", two, 0),
        "0/2168_02-094-102.png": ("['normal']", {}, 0),
        "1/1375_03-001-001.png": ("['unchanged', 'pleural effusion']", {"pleural effusion": 1}, -2),
        "1/1375_03-001-002.png": ("", {}, -2),
    }  # fmt: skip
    for number in more:
        has = ("['pleural effusion']", {"pleural effusion": 1}, 0)
        said[f"2/{number + 3000}_01-001-001.png"] = has if number % 2 else ("['normal']", {}, 0)
    _pictures(root / "in", list(said), 60)
    rows = [",ImageID,ImageDir,StudyDate_DICOM,PatientID,Projection,Pediatric,Labels,Localizations"]
    for number, (name, (labels, _, _)) in enumerate(said.items()):
        folder, image = name.split("/")
        cell = f'"{labels}"' if labels else ""
        view = "AP_horizontal" if number == 3 else _view(number) if number > 3 else "PA"
        rows.append(f"{number},{image},{folder},20140915,{image[:4]},{view},No,{cell},")
    save(root / "PADCHEST.csv", "\n".join(rows).encode())
    return MadeTables(
        root / "in",
        {"labels": "padchest", "table": (str(root / "PADCHEST.csv"),)},
        {name: labels for name, (_, labels, _) in said.items()},
        {name: rest for name, (_, _, rest) in said.items()},
        {name: name[2:6] for name in said},
        {},
        {},
    )  # fmt: skip


_VINDR = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,"
    "Emphysema,Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,"
    "Pleural effusion,Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,"
    "Lung tumor,Pneumonia,Tuberculosis,Other diseases,No finding"
)


def make_vindr(root: Path, more: Iterable[int] = ()) -> MadeTables:
    """Three readers a picture in the training table, a consensus in the test table, which has another name of
    `Other diseases`; DICOM names as PNG.
    """

    def line(start: str, *present: str) -> str:
        return ",".join([start, *(str(int(name in present)) for name in _VINDR.split(","))])

    aorta, heart = "Aortic enlargement", "Cardiomegaly"
    readings = [("R11", (aorta,)), ("R8", (aorta, heart)), ("R10", ("No finding",))]
    train = [f"image_id,rad_id,{_VINDR}"]
    train += [line(f"50a418190bc3,{reader}", *present) for reader, present in readings]
    train += [line(f"7c1add6833d5,R{reader}", "No finding") for reader in (8, 9, 10, 8)]
    test = [
        f"image_id,{_VINDR.replace('Other diseases', 'Other disease')}",
        line("0bc0ebcd2d5b", heart, "Other diseases"),
    ]
    values = {
        "train/50a418190bc3.png": {aorta: 1},
        "train/7c1add6833d5.png": {"No finding": 1},
        "test/0bc0ebcd2d5b.png": {heart: 1, "Other diseases": 1},
    }
    for number in more:
        name, present = f"{number:012x}", (heart if number % 2 else "No finding")
        values[f"{'train' if number % 3 else 'test'}/{name}.png"] = {present: 1}
        if number % 3:
            train += [line(f"{name},R{reader}", present) for reader in (8, 9, 10)]
        else:
            test.append(line(name, present))
    _pictures(root / "in", list(values), 80)
    save(root / "image_labels_train.csv", "\n".join(train).encode())
    save(root / "image_labels_test.csv", "\n".join(test).encode())
    tables = (str(root / "image_labels_train.csv"), str(root / "image_labels_test.csv"))
    return MadeTables(
        root / "in",
        {"labels": "vindr", "table": tables},
        values,
        dict.fromkeys(values, 0),
        {},
        {path: path.split("/")[0] for path in values},
        {"7c1add6833d5#image_labels_train.csv line 8": "listed_twice"},
    )  # fmt: skip


def make_columns(root: Path) -> MadeTables:
    """A table of semicolons, decimal commas, backslashes, and columns that are no finding."""
    _pictures(root / "in", ["a/1.png", "b/1.png", "b/2.png"], 100)
    rows = [
        "Path;Patient;Age;Source;Remark;effusion;edema",
        "a\\1.png;p1;40;north;sharp;1,0;",
        "b/1.png;p2;;south;;0;-1",
    ]
    save(root / "own.csv", "\n".join([*rows, "b/2.png;p2;50;south;blurred;;1", "c/1.png;p3;;;;1;1"]).encode())
    values = {"a/1.png": (1, -2), "b/1.png": (0, -1), "b/2.png": (-2, 1)}
    return MadeTables(
        root / "in",
        {"labels": "columns", "table": (str(root / "own.csv"),)},
        {name: {"effusion": effusion, "edema": edema} for name, (effusion, edema) in values.items()},
        dict.fromkeys(values, -2),
        {"a/1.png": "p1", "b/1.png": "p2", "b/2.png": "p2"},
        {},
        {"c/1.png": "missing"},
    )  # fmt: skip


MAKERS: dict[str, Callable[..., MadeTables]] = {
    "nih": make_nih,
    "chexpert": make_chexpert,
    "mimic": make_mimic,
    "padchest": make_padchest,
    "vindr": make_vindr,
    "columns": make_columns,
}

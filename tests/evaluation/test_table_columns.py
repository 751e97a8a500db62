"""Columns of the tables of large data sets, found by whatever their rows call the images."""

import pytest

from cxr_data.core.errors import DataError, UsageError
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.table_columns import read_columns

IDS = ("images/00000001_000.png", "images/00000002_000.png", "patient3/study1/view1_frontal.jpg")


@pytest.mark.parametrize(
    "text",
    [
        "Image Index,Patient Gender,View Position\n00000001_000.png,F,PA\n00000002_000.png,M,AP\n",
        "\ufeffsex;image_id;View Position\nF;00000001_000; PA \nM;00000002_000;AP\n",
        "Path,View Position\nvalid/patient3/study1/view1_frontal.jpg,AP\n"
        "images/00000001_000.png,PA\nimages/00000002_000.png,AP\n",
    ],
)
def test_rows_are_matched_by_path_name_or_stem(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    found = read_columns(path, ["View Position"], IDS)
    assert found["View Position"] == ["PA", "AP", "AP" if "patient3" in text else ""]


def test_a_name_that_several_images_share_names_none_of_them(tmp_path):
    ids = [f"train/patient{n}/study1/view1_frontal.jpg" for n in range(3)]
    path = tmp_path / "table.csv"
    rows = [f"CheXpert-v1.0/{image},{n}" for n, image in enumerate(ids[:2])] + ["view1_frontal.jpg,9"]
    path.write_text("\n".join(["Path,Age", *rows]))
    assert read_columns(path, ["Age"], ids)["Age"] == ["0", "1", ""]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("root", ["", "CheXpert-v1.0/"])
def test_a_row_of_another_patient_with_the_same_file_name_gives_no_value(tmp_path, order, root):
    ids = [
        "train/patient2/study1/view2_frontal.jpg",
        "train/patient4/study1/view1_frontal.jpg",
        "train/patient5/study1/view1_frontal.jpg",
    ]
    own = [f"{root}{ids[0]},F", f"{root}{ids[1]},F"]
    other = f"{root}train/patient3/study1/view2_frontal.jpg,M"
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["Path,Sex", *[*own, other][::order]]))
    assert read_columns(path, ["Sex"], ids)["Sex"] == ["F", "F", ""]
    path.write_text("\n".join(["Path,Sex", *[own[1], other][::order]]))
    assert read_columns(path, ["Sex"], ids)["Sex"] == ["", "F", ""]


def test_a_row_may_begin_with_folders_that_the_image_lacks_or_lack_some(tmp_path):
    ids = ["x.png", "b/a/x.png", "c/y.png"]
    path = tmp_path / "table.csv"
    path.write_text("name,sex\nr/c/x,F\na/x.png,M\ny,O\n,M\n")
    assert read_columns(path, ["sex"], ids)["sex"] == ["F", "M", "O"]


@pytest.mark.parametrize("order", [1, -1])
def test_two_rows_of_an_image_with_different_values_are_refused(tmp_path, order):
    path = tmp_path / "table.csv"
    rows = ["00000001_000.png,F,1", "images/00000001_000,M,1"][::order]
    path.write_text("\n".join(["name,sex,age", *rows]))
    assert read_columns(path, ["age"], IDS)["age"] == ["1", "", ""]
    with pytest.raises(DataError, match=r"sex.*00000001_000\.png"):
        read_columns(path, ["age", "sex"], IDS)


def test_a_picture_may_have_another_ending_than_its_row(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("Image Index,View Position\n00000001_000.jpg,PA\n00000002_000,AP\n")
    assert read_columns(path, ["View Position"], IDS)["View Position"] == ["PA", "AP", ""]


def test_a_column_that_is_not_there_and_a_table_of_other_images_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("name,sex\nx.png,F\n")
    with pytest.raises(UsageError, match="--by=view: .*name, sex"):
        read_columns(path, ["view"], IDS)
    with pytest.raises(DataError, match="--by_table=.*00000001_000.png"):
        read_columns(path, ["sex"], IDS)
    with pytest.raises(UsageError, match="--by_table=.*none.csv"):
        read_columns(tmp_path / "none.csv", ["sex"], IDS)


def test_columns_and_their_table_are_named_together():
    EvaluationOptions(by=("source",))
    with pytest.raises(UsageError, match="--by=sex: "):
        EvaluationOptions(by=("source", "sex"))
    with pytest.raises(UsageError, match="--by_table=t.csv: "):
        EvaluationOptions(by=("source",), by_table="t.csv")

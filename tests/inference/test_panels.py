"""Panels of images that are called as badly as files can be."""

import numpy as np
import pytest
from PIL import Image
from sharder_fixtures import encoded, make_source, picture, save

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_train.inference.files import find_files
from cxr_train.inference.panels import MOST_BARS, MOST_MAPS, PanelParts, panel, write_panels


@pytest.mark.parametrize("name", [200 * "\u00e9" + ".png", "1.2.840.113619.$^$.dcm", 'a,"\u80ba"\n\r.png'])
def test_a_panel_has_a_name_that_a_file_can_have(tmp_path, name):
    source = make_source(tmp_path / "source", images=3)
    config = SharderConfig(str(source), str(tmp_path / "out"), splits="all:1", size=24, workers=0, quiet=True)
    manifest = make_tfrecords(config)
    name = name.encode()[-255:].decode(errors="ignore")
    save(tmp_path / "in" / name, encoded(picture(1), "PNG"))
    (file,) = find_files([str(tmp_path / "in")])
    row = {"file": file.name, "probabilities": {"covid": 0.25, "$^$": 0.75}}
    write_panels(tmp_path / "panels", [file], [row], manifest, PanelParts())
    (made,) = (tmp_path / "panels").iterdir()
    assert made.name.startswith("00000_")
    assert Image.open(made).size[0] > 300


def test_a_panel_shows_the_whole_name_the_map_and_the_thresholds():
    name = "folder/" + 150 * "x" + ".png"
    row = {"file": name, "probabilities": {"a": 0.1, "$b$": 0.9}}
    asked = []

    def draw_map(image, index):
        asked.append((image.shape, index))
        return image

    figure = panel(np.zeros([4, 4, 1], np.uint8), row, PanelParts(draw_map, "failed", {"$b$": 0.25}))
    assert figure.get_suptitle().replace("\n", "") == name
    assert asked == [((4, 4, 3), 1)]
    _, evidence, bars = figure.axes
    assert r"\$b\$" in evidence.get_title()
    assert "the map is 0" in evidence.get_xlabel()
    assert "failed" in evidence.get_xlabel()
    (line,) = bars.lines
    assert list(line.get_xdata()) == [0.25, 0.25]
    assert np.mean(line.get_ydata()) == 1
    assert [label.get_text() for label in bars.get_yticklabels()] == ["a", r"\$b\$"]


@pytest.mark.parametrize(("predicted", "mapped"), [("a|c|d|e|f", [3, 0, 4, 5, 2]), ("c", [2]), ("", [1])])
def test_a_panel_has_a_map_of_every_finding_that_is_called(predicted, mapped):
    said = {"a": 0.7, "b": 0.95, "c": 0.2, "d": 0.9, "e": 0.6, "f": 0.5}
    asked = []

    def draw_map(image, index):
        asked.append(index)
        return image / 2 + 0.1

    row = {"file": "x", "predicted": predicted, "probabilities": said}
    figure = panel(np.ones([4, 4, 1], np.float32), row, PanelParts(draw_map, of_findings=True))
    assert asked == mapped
    assert len(figure.axes) == len(mapped) + 2
    titles = [axis.get_title() for axis in figure.axes[1:-1]]
    assert all(f"evidence for {[*said][index]}" in title for index, title in zip(mapped, titles, strict=True))
    assert ("not called" in titles[0]) == (predicted == "")
    assert len(figure.axes[-1].patches) == len(said)


def test_many_findings_fit_on_a_panel_and_what_is_left_out_is_counted():
    said = {f"finding {number}": (500 - number) / 500 for number in range(174)}
    asked = []

    def draw_map(image, index):
        asked.append(index)
        return image / 2

    row = {"file": "x", "predicted": "|".join([*said][:100]), "probabilities": said}
    figure = panel(np.ones([4, 4, 1], np.float32), row, PanelParts(draw_map, of_findings=True))
    assert asked == list(range(MOST_MAPS))
    titles = [axis.get_title() for axis in figure.axes]
    assert [f"{100 - MOST_MAPS} more" in title for title in titles[:-1]] == [False] * MOST_MAPS + [True]
    assert len(figure.axes[-1].patches) == MOST_BARS
    assert "of 174" in titles[-1]
    few = {**row, "predicted": "|".join([*said][:MOST_MAPS])}
    figure = panel(np.ones([4, 4, 1], np.float32), few, PanelParts(draw_map, of_findings=True))
    assert not [axis for axis in figure.axes if " more" in axis.get_title()]


def test_a_panel_can_be_without_a_map():
    row = {"file": "x", "probabilities": {"a": 0.1, "b": 0.9}}
    assert len(panel(np.zeros([4, 4, 1], np.float32), row, PanelParts()).axes) == 2

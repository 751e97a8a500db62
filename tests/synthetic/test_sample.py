"""The synthetic sample: its layout, its traps, and that only the lungs tell the class."""

import collections
import io
import pathlib
import re
import subprocess

import numpy as np
import pytest
from in_process import run_command
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_data.audit import shortcuts
from cxr_data.audit.pictures import Pictures
from cxr_data.core.errors import CxrError, UsageError
from cxr_data.images import measure
from cxr_data.synthetic import phantom, sample
from cxr_data.synthetic.sample import CLASSES, SampleConfig, make_sample, plan_sample

SIZES = (40, 80)


def read_all(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("made") / "sample"
    make_sample(SampleConfig(output, images=60, sizes=SIZES, test_images=3))
    return output


@pytest.fixture
def plan(tmp_path: pathlib.Path) -> list[sample.PlannedImage]:
    return plan_sample(SampleConfig(tmp_path, images=600, test_images=20))


class TestFolder:
    def test_layout_is_the_challenge_s(self, made: pathlib.Path) -> None:
        folders = collections.Counter(name.rpartition("/")[0] for name in read_all(made))
        assert folders == {
            "": 1,
            **{f"train/{name}": 16 for name in CLASSES},
            **{f"validation/{name}": 4 for name in CLASSES},
            "test_set": 3,
        }
        assert (made / "test_set" / "0003.jpg").is_file()

    def test_files_are_what_the_plan_says(self, made: pathlib.Path) -> None:
        plan = plan_sample(SampleConfig(made, images=60, sizes=SIZES, test_images=3))
        files = read_all(made)
        assert {image.path for image in plan} == set(files) - {sample.MARKER}
        for image in plan:
            with Image.open(io.BytesIO(files[image.path])) as opened:
                assert opened.format == {".png": "PNG", ".jpg": "JPEG"}[image.encoding.content]
                assert opened.mode == {1: "L", 3: "RGB"}[image.channels]
                assert opened.size == (image.size, image.size)

    def test_rgb_is_gray_in_three_channels(self, made: pathlib.Path) -> None:
        colored = [
            pixels
            for path in made.rglob("*.png")
            if (pixels := np.asarray(Image.open(path))).ndim == 3 and path.read_bytes()[:4] == b"\x89PNG"
        ]
        assert colored
        for pixels in colored:
            np.testing.assert_array_equal(pixels, pixels[..., :1].repeat(3, axis=-1))

    def test_some_validation_png_files_hold_jpeg_bytes(self, made: pathlib.Path) -> None:
        disguised = [
            name for name, data in read_all(made).items() if name.endswith(".png") and data[:2] == b"\xff\xd8"
        ]
        assert disguised
        assert all(name.startswith("validation/") for name in disguised)

    def test_same_configuration_same_bytes(self, tmp_path: pathlib.Path) -> None:
        for name, seed in (("a", 5), ("b", 5), ("c", 6)):
            make_sample(SampleConfig(tmp_path / name, images=6, seed=seed, sizes=(64,), test_images=1))
        first, again, other = (read_all(tmp_path / name) for name in "abc")
        assert first == again
        assert not set(first.values()) & set(other.values())

    def test_the_default_sizes(self, tmp_path: pathlib.Path) -> None:
        plan = make_sample(SampleConfig(tmp_path / "sample", images=9))
        assert {image.size for image in plan} == {512, 1024}
        for image in plan:
            assert Image.open(tmp_path / "sample" / image.path).size == (image.size, image.size)


class TestPlan:
    def test_size_mode_and_encoding_do_not_tell_the_class(self, plan: list[sample.PlannedImage]) -> None:
        for split, kinds in (("train", 8), ("validation", 12)):
            mixes = [
                collections.Counter(
                    (image.size, image.channels, image.encoding)
                    for image in plan
                    if image.path.startswith(f"{split}/{name}/")
                )
                for name in CLASSES
            ]
            assert mixes[0] == mixes[1] == mixes[2]
            assert len(mixes[0]) == kinds
            assert max(mixes[0].values()) - min(mixes[0].values()) <= 1

    @pytest.mark.parametrize("seed", range(5))
    def test_few_files_are_mixed_too(self, seed: int, tmp_path: pathlib.Path) -> None:
        plan = plan_sample(SampleConfig(tmp_path, images=9, seed=seed))
        train = [image for image in plan if image.path.startswith("train/covid/")]
        assert len(train) == 2
        for kind in ("size", "channels", "encoding"):
            assert len({getattr(image, kind) for image in train}) == 2

    def test_no_patient_in_two_splits_or_classes(self, plan: list[sample.PlannedImage]) -> None:
        homes = collections.defaultdict(set)
        for image in plan:
            homes[image.patient].add(image.path.rpartition("/")[0])
        assert all(len(folders) == 1 for folders in homes.values())

    def test_names_are_patient_and_follow_up(self, plan: list[sample.PlannedImage]) -> None:
        visits = collections.defaultdict(list)
        for image in plan:
            if not image.path.startswith("test_set/"):
                match = re.fullmatch(r"(\d{8})_(\d{3})\.(png|jpg)", image.path.rpartition("/")[2])
                assert match
                assert int(match[1]) == image.patient
                visits[image.patient].append(int(match[2]))
        assert all(numbers == list(range(len(numbers))) for numbers in visits.values())
        assert {len(numbers) for numbers in visits.values()} == {1, 2, 3}

    @pytest.mark.parametrize("images", [6, 7, 8, 31, 100])
    def test_counts_add_up(self, images: int, tmp_path: pathlib.Path) -> None:
        plan = plan_sample(SampleConfig(tmp_path, images=images))
        of_class = collections.Counter(image.finding for image in plan)
        assert len({image.path for image in plan}) == images
        assert max(of_class.values()) - min(of_class.values()) <= 1
        assert len({image.path.rpartition("/")[0] for image in plan}) == 2 * len(CLASSES)


class TestRefusals:
    def test_an_output_that_is_not_empty(self, made: pathlib.Path) -> None:
        before = read_all(made)
        with pytest.raises(UsageError, match=f"--output={made}: .*--overwrite"):
            make_sample(SampleConfig(made, images=6))
        assert read_all(made) == before

    def test_a_dataset_of_somebody_else_is_never_deleted(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "train" / "covid").mkdir(parents=True)
        with pytest.raises(UsageError, match=f"--output={tmp_path}: .*make_sample"):
            make_sample(SampleConfig(tmp_path, images=6, overwrite=True))
        assert (tmp_path / "train" / "covid").is_dir()

    def test_overwrite_replaces_an_earlier_sample(self, tmp_path: pathlib.Path) -> None:
        output = tmp_path / "sample"
        make_sample(SampleConfig(output, images=9, sizes=(32,)))
        make_sample(SampleConfig(output, images=6, sizes=(32,), seed=1, overwrite=True))
        assert len(read_all(output)) == 6 + 1
        assert [path.name for path in tmp_path.iterdir()] == ["sample"]

    def test_an_empty_folder_is_taken(self, tmp_path: pathlib.Path) -> None:
        make_sample(SampleConfig(tmp_path, images=6, sizes=(32,)))
        assert (tmp_path / "validation" / "covid").is_dir()

    def test_a_file_as_output(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "file").touch()
        for output in (tmp_path / "file", tmp_path / "file" / "sample"):
            with pytest.raises(UsageError, match=f"--output={output}"):
                make_sample(SampleConfig(output, images=6, sizes=(32,)))

    def test_a_folder_that_cannot_be_made(self) -> None:
        with pytest.raises(CxrError, match="/proc/none/sample") as refused:
            make_sample(SampleConfig(pathlib.Path("/proc/none/sample"), images=6, sizes=(32,)))
        assert refused.value.exit_code == 1

    def test_an_interrupted_run_leaves_nothing(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop_at_the_third(image: sample.PlannedImage, seed: int) -> np.ndarray:
            drawn.append(image)
            if len(drawn) == 3:
                raise KeyboardInterrupt
            return np.zeros((32, 32), np.uint8)

        drawn: list[sample.PlannedImage] = []
        monkeypatch.setattr(sample, "draw_image", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            make_sample(SampleConfig(tmp_path / "sample"))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"images": 5}, "--images=5: .*6"),
            ({"seed": -1}, "--seed=-1"),
            ({"test_images": -1}, "--test_images=-1"),
            ({"sizes": (512, 16)}, "--size=16"),
            ({"sizes": ()}, "--size=: "),
        ],
    )
    def test_values_out_of_range(self, change: dict, message: str, tmp_path: pathlib.Path) -> None:
        with pytest.raises(UsageError, match=message):
            SampleConfig(tmp_path, **change)


class TestCommand:
    @staticmethod
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command("tools.make_sample", *arguments).completed

    def test_makes_a_sample_and_says_where(self, tmp_path: pathlib.Path) -> None:
        output = tmp_path / "sample"
        result = self.run(f"--output={output}", "--images=6", "--size=48,64", "--test_images=1", "--seed=3")
        assert (result.returncode, result.stderr) == (0, "")
        assert f"{output}/train/covid: 1 image" in result.stdout
        assert len(read_all(output)) == 6 + 1 + 1

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--size=512,big"], "--size=512,big: "),
            (["--images=many"], "--images=many"),
            (["--output=."], "--output=.: "),
        ],
    )
    def test_a_bad_flag_is_one_line(self, flags: list[str], message: str, tmp_path: pathlib.Path) -> None:
        result = self.run(f"--output={tmp_path / 'sample'}", *flags)
        assert result.returncode == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


class TestPictures:
    @pytest.mark.parametrize("finding", phantom.FINDINGS)
    def test_range(self, finding: str) -> None:
        rng = np.random.default_rng(0)
        picture = phantom.draw_finding(phantom.Anatomy.random(rng), finding, rng)
        assert picture.dtype == np.float32
        assert picture.shape == (phantom.CANVAS, phantom.CANVAS)
        assert 0.0 <= picture.min() < 0.05
        assert 0.7 < picture.max() <= 1.0

    @pytest.mark.ci
    def test_the_lungs_tell_the_class_and_nothing_else_does(self, tmp_path: pathlib.Path) -> None:
        plan = plan_sample(SampleConfig(tmp_path, images=240, sizes=(96,)))
        drawn = (sample.draw_image(image, seed=0).reshape(96, 96, -1)[..., 0] for image in plan)
        rows = np.array([measure.row_of(np.ascontiguousarray(picture)) for picture in drawn])
        pixels = rows["thumbnail"]
        labels = np.array([CLASSES.index(image.finding) for image in plan])
        held_out = np.array([image.path.startswith("validation/") for image in plan])

        def accuracy(features: np.ndarray) -> float:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
            model.fit(features[~held_out], labels[~held_out])
            return model.score(features[held_out], labels[held_out])

        assert accuracy(pixels.reshape(len(plan), -1)) > 0.7
        # Chance is 1/3 with a standard deviation of 0.07 on 48 pictures.
        brightness = np.stack([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)
        assert accuracy(brightness) < 0.54
        assert accuracy(pixels[:, :3, :3].reshape(len(plan), -1)) < 0.54
        own = Pictures(
            where="sample",
            ids=[image.path for image in plan],
            groups=[str(image.patient) for image in plan],
            splits=["train"] * len(plan),
            labels=labels,
            class_names=CLASSES,
            rows=rows,
            has_files=False,
        )
        assert [score for score in shortcuts.find_shortcuts(own) if score.is_above_chance] == []

"""One file in a worker: whatever it asks for, it gets a verdict, and the worker goes on."""

import functools
import os
import re

import bombs
import isolated_calls
import numpy as np
import pytest
from dicom_files import make_dicom
from project import ROOT
from sharder_fixtures import encoded, picture, save

from cxr_data.images import dicom_header
from cxr_data.images.decode import decode_pixels
from cxr_data.images.guarded import (
    USUAL,
    Limits,
    SourceFile,
    guarded,
    lost_file,
    read_each,
    read_one,
    read_picture,
)
from cxr_data.images.preprocess import PixelOptions
from cxr_data.images.undecodable import Undecodable
from cxr_data.sources.dicom_patient import patient_of

OPTIONS = PixelOptions(32, 1, "uint8", "gray")


def reading(limits):
    return functools.partial(read_picture, options=OPTIONS, limits=limits)


def test_memory_beyond_the_limit_is_a_verdict_and_the_worker_goes_on(tmp_path):
    good = SourceFile(str(save(tmp_path / "good.png", encoded(picture(1)))))
    large = SourceFile(str(save(tmp_path / "large.bmp", bombs.bmp(9000, 24, 0, bytes(64)))))
    limits = Limits(image_memory_gb=0.1)
    first, refused, last = read_each(reading(limits), [good, large, good], limits)
    assert refused.reason == "too_large"
    assert len(refused.sha256) == 64
    np.testing.assert_array_equal(first.pixels, last.pixels)
    assert first.bytes == os.path.getsize(good.path)


def test_a_refused_file_leaves_the_next_all_its_memory():
    limits = Limits(image_memory_gb=0.1)
    refused, taken = read_each(functools.partial(isolated_calls.take, limits=limits), [160, 60], limits)
    assert refused.reason == "too_large"
    assert taken == 60


class OutOfMemory:
    """A dataset that has no memory left for any value."""

    def get(self, *_):
        raise MemoryError

    get_item = __getitem__ = get
    file_meta = property(get)


@pytest.mark.parametrize(
    "ask",
    [
        lambda header: header.text("Rows"),
        lambda header: header.items("Rows"),
        lambda header: header.raw("Rows"),
        lambda header: header.representation("Rows"),
        patient_of,
    ],
)
def test_no_value_of_a_header_hides_that_memory_has_run_out(ask):
    with pytest.raises(MemoryError):
        ask(dicom_header.Header(OutOfMemory()))


def test_a_file_larger_than_the_limit_is_not_read(tmp_path):
    limits = Limits(image_memory_gb=1e-6)
    with pytest.raises(Undecodable, match="too_large"):
        read_one(reading(limits), SourceFile(str(save(tmp_path / "a.png", bytes(2000)))), limits)


def test_whatever_reading_raises_is_the_verdict_on_the_file():
    with pytest.raises(Undecodable, match="damaged.*RecursionError"), guarded(USUAL):
        raise RecursionError


@pytest.mark.parametrize("behind_2048", [False, True])
@pytest.mark.parametrize("preamble", [True, False])
def test_a_deflated_bomb_is_refused_wherever_its_syntax_is_said(behind_2048, preamble, monkeypatch):
    data = bombs.pixel_bomb(1 << 22, behind_2048=behind_2048, preamble=preamble)
    assert not decode_pixels(data, "gray", 10**6).any()
    monkeypatch.setattr(dicom_header, "LARGEST_INFLATED", 1_000_000)
    with pytest.raises(Undecodable, match="too_large.*1000000"):
        decode_pixels(data, "gray", 10**6)


def test_frames_that_a_header_claims_are_not_looked_for():
    stored = np.arange(400, dtype=np.uint16).reshape(20, 20)
    one, many = make_dicom(stored), make_dicom(stored, NumberOfFrames=99_999_999)
    np.testing.assert_array_equal(decode_pixels(many, "gray", 10**6), decode_pixels(one, "gray", 10**6))


@pytest.mark.slow
@pytest.mark.parametrize("name", bombs.BOMBS)
def test_no_bomb_takes_more_memory_than_a_file_may(name, tmp_path):
    path = save(tmp_path / "bomb", bombs.BOMBS[name]())
    peak, said = bombs.peak_of(path, USUAL.image_memory_gb)
    assert peak < (USUAL.image_memory_gb + 0.2) * 1e9, said
    row = next(line for line in (ROOT / "docs/hostile.md").read_text().splitlines() if f"| {name} |" in line)
    assert said.partition(":")[0] in re.findall(r"\w+", row.split("|")[-2])


@pytest.mark.parametrize(
    ("cause", "reason", "words"),
    [
        ("timeout", "timeout", "--image_timeout=7,"),
        ("signal SIGKILL", "decoder_crashed", "by SIGKILL.*memory"),
        ("exit code 3", "decoder_crashed", "exit code 3"),
    ],
)
def test_the_verdict_on_a_lost_file_says_what_ended_its_worker(cause, reason, words):
    verdict = lost_file(cause, Limits(image_timeout=7))
    assert verdict.reason == reason
    assert re.search(words, verdict.detail)

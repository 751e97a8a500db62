"""The mix of sources: shares, whole permutations, the same after a stop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.core.errors import UsageError
from cxr_data.input.mix import Mix, parse_mix

NAMES = ("", "nih", "guangzhou")


def made(weights: dict[str, float], sizes=(0, 300, 50), *, balanced=False) -> tuple[Mix, np.ndarray]:
    sources = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], sizes))
    return Mix.of(weights, NAMES, 7 + np.arange(len(sources)), sources, balanced=balanced), sources


@settings(max_examples=30, deadline=None)
@given(
    weight=st.floats(0.1, 10),
    batch=st.integers(1, 40),
    seed=st.integers(0, 99),
    sizes=st.tuples(st.just(0), st.integers(1, 300), st.integers(1, 60)),
)
def test_every_epoch_has_the_shares_and_every_source_is_seen_evenly(weight, batch, seed, sizes):
    mix, sources = made({"nih": weight, "guangzhou": 1}, sizes)
    steps = max(len(sources) // batch, 1)
    epochs = [mix.epoch(steps, batch, seed=seed, epoch=epoch) for epoch in range(5)]
    for found in epochs:
        assert found.shape == (steps, batch)
        of_nih = (sources[found.ravel() - 7] == 1).sum()
        assert abs(of_nih - weight / (weight + 1) * steps * batch) < 1 + 1e-6
    # Over all epochs together, no image of a source is seen twice more often than another one.
    times = np.bincount(np.concatenate(epochs).ravel() - 7, minlength=len(sources))
    for source in (1, 2):
        of_source = times[sources == source]
        assert of_source.max() - of_source.min() <= 1
    np.testing.assert_array_equal(mix.epoch(steps, batch, seed=seed, epoch=3), epochs[3])


def test_seeds_and_epochs_have_orders_of_their_own():
    mix, _ = made({"nih": 2, "guangzhou": 1})
    one = mix.epoch(10, 30, seed=1, epoch=0)
    assert (one != mix.epoch(10, 30, seed=2, epoch=0)).any()
    assert (one != mix.epoch(10, 30, seed=1, epoch=1)).any()


def test_a_balanced_batch_has_the_shares_of_every_source():
    mix, sources = made({"nih": 2, "guangzhou": 1}, balanced=True)
    mix.check_batch(24)
    for batch in mix.epoch(14, 24, seed=0, epoch=2):
        assert np.bincount(sources[batch - 7], minlength=3).tolist() == [0, 16, 8]
    halves = mix.epoch(50, 24, seed=0, epoch=0).reshape(100, 12)
    assert len({(sources[half - 7] == 1).sum() for half in halves}) > 2  # no replica gets one source alone
    even, _ = made({}, balanced=True)
    assert even.shares == (0.5, 0.5)


@pytest.mark.parametrize("batch", [12, 25])
def test_a_batch_that_cannot_be_balanced_is_refused(batch):
    mix, _ = made({"nih": 2, "guangzhou": 1}, balanced=True)
    with pytest.raises(UsageError, match="--balance_batches: "):
        mix.check_batch(batch)


@pytest.mark.parametrize("text", ["nih", "nih:", "nih:0", "nih:-1", "nih:x", "nih:inf", "nih:1,nih:2", ","])
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError, match=f"--mix={text}: "):
        parse_mix(text)


def test_a_source_that_is_not_there_or_has_no_weight_is_named():
    assert parse_mix("nih:2,a:b:1") == {"nih": 2, "a:b": 1}
    assert parse_mix("") == {}
    with pytest.raises(UsageError, match="--mix=nih:1,chexpert:1: .*'chexpert'.*nih, guangzhou"):
        made({"nih": 1, "chexpert": 1})
    with pytest.raises(UsageError, match="--mix=nih:1: .*'guangzhou'"):
        made({"nih": 1})

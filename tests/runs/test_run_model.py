"""`best.keras` and `last.keras`: what they give; a file that was published is never written to again."""

import keras
import numpy as np
import pytest
from runs import make_run, probabilities_of, tiny_model

from cxr_train.lifecycle.trained_run import load_run
from cxr_train.runs.run_model import link_model, load_best_model, save_model


def small_model(value: float) -> keras.Model:
    inputs = keras.Input([1])
    outputs = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(value))(inputs)
    return keras.Model(inputs, outputs)


def value_of(path) -> float:
    return float(keras.saving.load_model(path, safe_mode=True).get_weights()[0][0, 0])


def test_a_best_model_survives_being_put_back_and_the_next_save(tmp_path):
    last, best = tmp_path / "last.keras", tmp_path / "best.keras"
    kept = tmp_path / "checkpoint" / "best.keras"
    kept.parent.mkdir()
    save_model(small_model(1), last)
    link_model(last, best)
    link_model(best, kept)
    # A run that goes on puts the best model back, which may be there still.
    link_model(kept, best)
    save_model(small_model(2), last)
    assert (value_of(best), value_of(kept), value_of(last)) == (1, 1, 2)


def test_a_name_left_by_a_killed_run_is_not_written_through(tmp_path):
    last, best = tmp_path / "last.keras", tmp_path / "best.keras"
    save_model(small_model(1), last)
    link_model(last, best)
    (tmp_path / "writing.keras").hardlink_to(best)
    save_model(small_model(2), last)
    assert (value_of(best), value_of(last)) == (1, 2)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_a_saved_model_gives_probabilities_and_the_loaded_one_its_logits(tmp_path, policy):
    model = tiny_model(3, 8, policy=policy)
    images = np.random.default_rng(0).random([5, 8, 8, 3], np.float32)
    save_model(model, tmp_path / "best.keras")
    saved = keras.saving.load_model(tmp_path / "best.keras", safe_mode=True)
    said = saved.predict(images, verbose=0)
    assert said.dtype == np.float32
    np.testing.assert_allclose(said, probabilities_of(model, images), atol=1e-6)
    inside = load_best_model(tmp_path)
    np.testing.assert_array_equal(inside.predict(images, verbose=0), model.predict(images, verbose=0))
    for variable, kept in zip(model.variables, inside.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), kept.numpy())
    # Saving has left the model itself as it was.
    assert model.layers[-1].name == inside.layers[-1].name == "logits"


def test_a_file_without_a_softmax_as_older_versions_saved_it_gives_the_same(manifest, tmp_path):
    model = make_run(tmp_path / "run", manifest)
    images = np.random.default_rng(0).random([5, 8, 8, 3], np.float32)
    found = []
    for save in (lambda path: save_model(model, path), model.save):
        save(tmp_path / "run" / "best.keras")
        logits = load_best_model(tmp_path / "run").predict(images, verbose=0)
        found.append((logits, load_run(tmp_path / "run").model().predict(images, verbose=0)))
    for new, old in zip(*found, strict=True):
        np.testing.assert_array_equal(new, old)
    np.testing.assert_allclose(found[0][1], probabilities_of(model, images), atol=1e-6)

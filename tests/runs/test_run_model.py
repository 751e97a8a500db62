"""`best.keras` and `last.keras`: a file that was published is never written to again."""

import keras

from cxr_train.runs.run_model import link_model, save_model


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

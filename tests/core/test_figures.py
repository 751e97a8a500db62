"""Names as figures show them, whatever is in them."""

import warnings

from matplotlib.figure import Figure

from cxr_data.core.figures import figure_bytes, plain


def titled(title: str) -> bytes:
    figure = Figure(figsize=(2, 2))
    figure.suptitle(title)
    return figure_bytes(figure, format="svg", metadata={"Date": None})


def test_a_dollar_is_no_formula_and_a_missing_letter_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert titled(plain("$x^2$ \U0001f9ec")).startswith(b"<?xml")
    assert titled("$x^2$") != titled(plain("$x^2$"))

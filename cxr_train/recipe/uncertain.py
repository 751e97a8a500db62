"""`--uncertain`: what an uncertain label of a finding counts as in training."""

from cxr_data.core.errors import UsageError

_FIXED = {"zeros": 0.0, "ones": 1.0}


def parse_uncertain(text: str) -> tuple[float, float] | None:
    """Parse `ignore`, `zeros`, `ones` or `smooth:LOW:HIGH`.

    U-Ignore, U-Zeros and U-Ones: Irvin et al., "CheXpert", 2019. A range: Pham et al., "Interpreting chest
    X-rays via CNNs that exploit hierarchical disease dependencies and uncertainty labels", 2021, who use
    0.55 to 0.85 in place of 1, and 0 to 0.3 in place of 0.

    Returns:
      The range in [0, 1] of the targets of uncertain labels; None where such labels do not count.

    Raises:
      UsageError: it is none of these, or the range is not within [0, 1].
    """
    if text == "ignore":
        return None
    if text in _FIXED:
        return _FIXED[text], _FIXED[text]
    name, _, numbers = text.partition(":")
    try:
        low, high = (float(number) for number in numbers.split(":"))
    except ValueError:
        low, high = 1.0, 0.0
    if name != "smooth" or not 0 <= low <= high <= 1:
        raise UsageError(
            f"--uncertain={text}: must be ignore, zeros, ones or smooth:LOW:HIGH with 0 <= LOW <= HIGH <= 1; "
            "for example smooth:0.55:0.85"
        )
    return low, high

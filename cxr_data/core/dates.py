"""Dates as people write them."""

import datetime

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def date_in_words(timestamp: str) -> str:
    """Return an ISO 8601 time as `27 November 2026, 16:40`, with `UTC` where it is that.

    The names of months are English whatever the machine's language. A text that is no time stays as it is.
    """
    try:
        time = datetime.datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    zone = "" if time.utcoffset() is None else f" {time:%Z}"
    return f"{time.day} {_MONTHS[time.month - 1]} {time.year}, {time:%H:%M}{zone}"

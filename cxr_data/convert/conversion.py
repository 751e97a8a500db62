"""What made a dataset, as an audit keeps it: its source, and the flags that decide the output."""

from typing import Any

from cxr_data.audit.repair import Conversion, absolute, joined
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.ledger import read_ledger
from cxr_data.core.errors import DataError
from cxr_data.core.settings import settings_of

_DEFAULTS = SharderConfig("", "")
# How the work is done, and where it goes: the output is the same for any value.
_OF_THE_RUN = (
    "output",
    "write_split_file",
    "workers",
    "max_bad",
    "image_timeout",
    "image_memory_gb",
    "audit",
    "overwrite",
    "retry_quarantined",
    "log_json",
    "runner",
    "beam_runner",
    "beam_options",
)


def conversion_of(config: SharderConfig) -> Conversion:
    """Return what a conversion with these flags makes its output from."""
    flags = {}
    for field, declared in settings_of(config):
        value = getattr(config, field.name)
        if field.name not in ("source", *_OF_THE_RUN) and value != getattr(_DEFAULTS, field.name):
            places = value if isinstance(value, tuple) else (value,)
            flags[field.name] = joined(map(absolute, places)) if declared.path else _as_typed(value)
    return Conversion(absolute(config.source), flags)


def conversion_of_ledger(directory: str) -> Conversion | None:
    """Return what the ledger of a dataset knows of its conversion: no source, and no list of pictures.

    Returns:
      None where there is no ledger, as beside shards of another program, or it is damaged.
    """
    try:
        found = read_ledger(directory)
    except DataError:
        return None
    if found is None:
        return None
    config = dict(found[0].config)
    if config.get("classes") == sorted(config.get("classes", ())):
        del config["classes"]  # the order that they have without the flag
    flags = {}
    for field, _ in settings_of(_DEFAULTS):
        usual = getattr(_DEFAULTS, field.name)
        value = config.get(field.name, usual)
        if field.name != "exclude" and value not in (usual, []):
            flags[field.name] = _as_typed(value)
    return Conversion("", flags)


def _as_typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)

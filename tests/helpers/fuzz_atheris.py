"""Coverage-guided fuzzing of manifest, index, audit and predictions; what is no CxrError is a finding.

    python tests/helpers/fuzz_atheris.py FOLDER -runs=20000

FOLDER receives the files that are opened. The first byte of an input chooses which.
"""

import contextlib
import hashlib
import pathlib
import sys

import atheris
from shards import random_images, write_shards

with atheris.instrument_imports(include=["cxr_data", "cxr_train.evaluation.predictions"]):
    from cxr_data.core.errors import CxrError
    from cxr_data.records.audit_document import read_audit
    from cxr_data.records.index import read_index
    from cxr_data.records.manifest import read_manifest
    from cxr_train.evaluation.predictions import read_predictions

folder = pathlib.Path(sys.argv[1])
del sys.argv[1]
made = write_shards(folder / "data", {"train": random_images(4)})
manifest = (folder / "data" / "manifest.json").read_bytes()


def open_index(content: bytes) -> None:
    """The checksum is right: whoever writes the index writes the manifest too."""
    (folder / "data" / "index.npy").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / "data" / "manifest.json").write_bytes(
        manifest.replace(made.index_sha256.encode(), sha256.encode())
    )
    read_index(read_manifest(str(folder / "data")))


def open_as(name: str, read) -> object:
    def opened(content: bytes) -> None:
        (folder / name).write_bytes(content)
        read(str(folder))

    return opened


TARGETS = (
    open_as("manifest.json", read_manifest),
    open_as("audit.json", read_audit),
    open_as(
        "predictions.csv", lambda directory: read_predictions(pathlib.Path(directory, "predictions.csv"))
    ),
    open_index,
)


def one_input(content: bytes) -> None:
    with contextlib.suppress(CxrError):
        TARGETS[content[0] % len(TARGETS) if content else 0](content[1:])


atheris.Setup(sys.argv, one_input)
atheris.Fuzz()

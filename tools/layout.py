"""Writes BUILD.md's chapter on layout from the first docstrings of the wings and the names of their modules.

python -m tools.layout
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "BUILD.md"
PACKAGES = ("cxr_data", "cxr_train", "tools")
BEGIN = "<!-- from here, written by `python -m tools.layout` -->\n"
END = "<!-- to here -->\n"


def _first_sentence(folder: Path) -> str:
    """Return the first paragraph of a package's docstring as one line. Raises ValueError: it has none."""
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    if not docstring:
        raise ValueError(f"{folder}/__init__.py has no docstring that says what belongs there")
    return " ".join(docstring.split("\n\n")[0].split())


def _modules(folder: Path) -> str:
    return ", ".join(path.stem for path in sorted(folder.glob("*.py")) if path.stem != "__init__")


def chapter() -> str:
    """Return the table of all wings: where, what belongs there, and every module."""
    rows = ["| folder | what belongs there | modules |", "|---|---|---|"]
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            folder = init.parent
            rows.append(
                f"| `{folder.relative_to(ROOT)}/` | {_first_sentence(folder)} | {_modules(folder) or '-'} |"
            )
    return "\n".join(rows) + "\n"


def with_chapter(text: str) -> str:
    """Return the text of BUILD.md with the chapter between its two marks as the code says it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{BUILD} lacks the marks {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{chapter()}\n{END}{after}"


if __name__ == "__main__":
    BUILD.write_text(with_chapter(BUILD.read_text()))

"""Draws docs/front.svg, the picture of README.md: measured speeds, and the page of a run.

python -m tools.front_picture --run_dir=build/demo/run

The speeds are those of docs/benchmarks.md. Chromium, which must be installed, photographs the page. Only
give it a run on the synthetic sample: no real X-ray may be in the project.
"""

import base64
import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2
from absl import flags

from cxr_data.commands import command
from cxr_data.commands.setting_flags import define_path_flag
from cxr_data.core.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "docs/benchmarks.md"
PICTURE = ROOT / "docs/front.svg"

# Lengths in units of the picture.
_WIDTH, _HEIGHT = 1000, 430
_BAR_LEFT, _BAR_LONGEST, _BAR_TOP, _BAR_STEP = 176, 200, 84, 32
_PAGE_LEFT, _PAGE_TOP, _PAGE_WIDTH, _PAGE_HEIGHT = 520, 60, 456, 346


def ratios() -> dict[str, float]:
    """Return how many times as fast as each reference this project reads, as docs/benchmarks.md has it."""
    chapter = BENCHMARKS.read_text().partition("## Reading, against other loaders")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \| ([\d.]+) \|", chapter, re.MULTILINE)
    return {name.replace("`", ""): float(ratio) for name, ratio in rows}


def bars() -> str:
    """Return the bars: speed as a share of this project's, each with its number."""
    parts = []
    for number, (name, ratio) in enumerate([("cxr", 1.0), *ratios().items()]):
        y = _BAR_TOP + number * _BAR_STEP
        length = _BAR_LONGEST / ratio
        own = number == 0
        color, weight = ("#0072B2", "bold") if own else ("#9AA5B1", "normal")
        label = f"{1 / ratio:.2g}"
        parts.append(
            f'<text x="{_BAR_LEFT - 10}" y="{y + 15}" text-anchor="end" font-weight="{weight}">'
            f"{html.escape(name)}</text>"
            f'<rect x="{_BAR_LEFT}" y="{y}" width="{length:.1f}" height="20" rx="2" '
            f'fill="{color}"/>'
            f'<text x="{_BAR_LEFT + length + 8:.1f}" y="{y + 15}">{label}</text>'
        )
    return "\n".join(parts)


def photograph(page: Path) -> bytes:
    """Return the top of a page as a JPEG, twice as large as it is shown."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise DataError("Chromium is not installed: install it, it photographs the page")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        size = f"--window-size={_PAGE_WIDTH * 2},{_PAGE_HEIGHT * 2}"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", size, f"--screenshot={shot}"]
        subprocess.run([chromium, *options, page.resolve().as_uri()], check=True, capture_output=True)
        image = cv2.imread(str(shot))
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def picture(page: bytes) -> str:
    """Return the SVG.

    Args:
      page: a JPEG.
    """
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"
 font-family="system-ui, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="14" fill="#1F2933">
<title>Speed of reading against other loaders, and the page of a run</title>
<rect width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="#FFFFFF"/>
<text x="24" y="34" font-size="18" font-weight="bold">Images read a second</text>
<text x="24" y="56" fill="#52606D">float32, 360x360x3; cxr = 1; 2 cores (processor not noted), no GPU</text>
{bars()}
<text x="{_PAGE_LEFT}" y="34" font-size="18" font-weight="bold">A run on one page</text>
<image x="{_PAGE_LEFT}" y="{_PAGE_TOP}" width="{_PAGE_WIDTH}" height="{_PAGE_HEIGHT}"
 href="data:image/jpeg;base64,{base64.b64encode(page).decode()}"/>
<rect x="{_PAGE_LEFT}" y="{_PAGE_TOP}" width="{_PAGE_WIDTH}" height="{_PAGE_HEIGHT}"
 fill="none" stroke="#9AA5B1"/>
<text x="{_PAGE_LEFT + _PAGE_WIDTH}" y="34" text-anchor="end" fill="#52606D">drawn pictures, no X-rays</text>
</svg>
"""


def main() -> None:
    """Write the picture."""
    run_dir = flags.FLAGS.run_dir
    if not run_dir:
        raise UsageError("--run_dir is missing (--help lists the flags)")
    page = Path(run_dir) / "report/index.html"
    if not page.is_file():
        raise UsageError(f"--run_dir={run_dir}: it has no report/index.html")
    PICTURE.write_text(picture(photograph(page)))


if __name__ == "__main__":
    define_path_flag("run_dir", None, "Run directory whose page is shown.")
    command.run(main)

"""The page of a run in a real browser."""

import pathlib
import re
import shutil
import subprocess

import pytest
from written_run import PICTURES, write_run

from cxr_train.reporting.page import write_report

# Folds are opened: what they hide must not stick out either.
_PROBE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(fold => { fold.open = true; });
  const missing = [...document.images].filter(image => !image.naturalWidth).length;
  const asked = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:"));
  parent.postMessage(["PROBE", innerWidth, document.images.length, missing, asked.length,
                      document.documentElement.scrollWidth].join(" "), "*");
});</script>"""
# A window of Chromium is 500 px wide or more; a frame may be as narrow as a telephone.
_FRAME = """<script>addEventListener("message", event => { document.title = event.data; });</script>
<iframe src="probed.html" width="WIDTH" height="800" style="border: 0"></iframe>"""


def chromium(page: pathlib.Path, profile: pathlib.Path) -> subprocess.CompletedProcess:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
    flags += ["--enable-logging=stderr", "--v=0", "--window-size=1400,900"]
    return subprocess.run(
        [program, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )


def test_in_chromium_no_error_no_missing_picture_no_request_and_nothing_sticks_out(tmp_path):
    page = write_report(write_run(tmp_path / "run"))
    assert "CONSOLE" not in chromium(page, tmp_path / "profile").stderr
    # The page forbids scripts; the copy that is measured is without that line.
    text = page.read_text()
    opened = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', _PROBE, text)
    assert opened != text
    (tmp_path / "probed.html").write_text(opened)
    for width in (1280, 400):
        frame = tmp_path / "frame.html"
        frame.write_text(_FRAME.replace("WIDTH", str(width)))
        result = chromium(frame, tmp_path / "profile")
        title = re.search(r"<title>PROBE (\d+) (\d+) (\d+) (\d+) (\d+)</title>", result.stdout)
        assert title, result.stderr[-2000:]
        inner, pictures, missing, requests, needed = map(int, title.groups())
        assert inner == width
        assert (pictures, missing, requests) == (PICTURES, 0, 0)
        assert needed <= inner

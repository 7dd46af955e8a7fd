"""The pages as HTML."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_pages_become_html_without_a_warning(tmp_path: Path):
    """A page that nobody is led to, or a link into nothing, is found here and not by a reader."""
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    built = subprocess.run(
        [*command, "-d", tmp_path / "kept", ROOT / "docs", tmp_path / "html"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert built.returncode == 0, built.stderr
    assert ">First light<" in (tmp_path / "html/index.html").read_text()

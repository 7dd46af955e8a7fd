"""The pictures of the docs: `python -m tests.dashboard.screenshots`; with a FOLDER, all there are."""

import shutil
import sys
import tempfile
from itertools import product
from pathlib import Path

from config.settings import SHIPPED_CONFIG
from ledger.connect import connect
from tests.dashboard import demo
from tests.dashboard.browser import chromium
from tests.dashboard.site import PHONE, WIDE, Scheme, Site
from tests.fleet.processes import Fleet

SCHEMES: tuple[Scheme, ...] = ("light", "dark")

SIZES = {"wide": WIDE, "phone": PHONE}

IN_DOCS = ("overview-wide-light", "task-wide-dark", "tasks-phone-dark")

IMAGES = Path(__file__).parents[2] / "docs/images"


def take(folder: Path) -> None:
    """Open every page of a made-up month, in light and dark, wide and on a phone."""
    folder.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp"))
    home.chmod(0o755)  # Postgres runs as nobody where this is root, who has to pass
    shutil.copytree(SHIPPED_CONFIG, home / "config")
    fleet = Fleet(home)
    try:
        with connect(fleet.settings.database_url, name="demo") as db:
            task = demo.fill(db)
        site = Site(fleet)
        pages = {
            "overview": "/?over=30d",
            "tasks": "/tasks",
            "task": f"/tasks/{task}",
            "models": "/models",
            "workers": "/workers",
            "schedules": "/schedules",
            "agents": "/agents?days=30",
        }
        with chromium() as browser:
            for scheme, (size, viewport) in product(SCHEMES, SIZES.items()):
                context = browser.new_context(viewport=viewport, color_scheme=scheme, locale="en-GB")
                page = context.new_page()
                for name, path in pages.items():
                    image = f"{name}-{size}-{scheme}"
                    if folder != IMAGES or image in IN_DOCS:
                        page.goto(site.url + path)
                        page.wait_for_load_state("networkidle")
                        page.screenshot(path=folder / f"{image}.png", full_page=folder != IMAGES)
                context.close()
    finally:
        fleet.end()
        shutil.rmtree(home)


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)

"""Flower: tasks and workers as pages, behind a password."""

import logging
import os
import secrets
import signal
from contextlib import suppress
from pathlib import Path

from celery import Celery

from config.settings import Settings
from workers.errors import NotThereError

ADDRESS = "127.0.0.1"
"""Where Flower can be reached on its own machine."""

USER = "fleet"


def url(settings: Settings) -> str:
    return f"http://{ADDRESS}:{settings.flower_port}"


def password_file(settings: Settings) -> Path:
    return settings.home / "flower.password"


def password(settings: Settings) -> tuple[str, bool]:
    """Give Flower's password, making one at the first start.

    Returns:
        The password, and whether it was made just now.
    """
    if settings.flower_password:
        return settings.flower_password, False
    file = password_file(settings)
    with suppress(FileNotFoundError):
        return file.read_text().strip(), False
    made = secrets.token_urlsafe(12)
    aside = file.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as writing:
        writing.write(f"{made}\n")
    try:
        file.hardlink_to(aside)  # whole or not at all, and only the first one
    except FileExistsError:
        return file.read_text().strip(), False
    finally:
        aside.unlink()
    return made, True


def run_flower(app: Celery, settings: Settings) -> None:
    """Run Flower until SIGTERM or SIGINT.

    The password is set in this process: on a command line everybody on the machine could read it.

    Raises:
        NotThereError: the port is in use.
    """
    from flower.app import Flower  # noqa: PLC0415 - `url` and `password` answer without tornado
    from flower.options import options  # noqa: PLC0415
    from flower.urls import settings as pages  # noqa: PLC0415
    from flower.utils import gen_cookie_secret  # noqa: PLC0415
    from tornado.ioloop import IOLoop  # noqa: PLC0415

    options.address = settings.flower_address
    options.port = settings.flower_port
    options.basic_auth = [f"{USER}:{password(settings)[0]}"]
    # Each wrong password would be a line, and each look at a fleet that has no Celery worker yet four.
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    flower = Flower(capp=app, options=options, **{**pages, "cookie_secret": gen_cookie_secret()})
    try:
        flower.start_http_server()
    except OSError as error:
        raise NotThereError(
            f"Flower cannot listen on {settings.flower_address}:{settings.flower_port} ({error.strerror})",
            "end what listens there, or set FLEET_FLOWER_PORT to another port",
        ) from error
    loop = IOLoop.current()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.add_callback_from_signal(flower.stop))
    flower.start()

"""`fleet dashboard`: the pages, served."""

import socket

import uvicorn

from config.catalog import Catalog
from config.errors import SettingsError
from config.settings import Settings
from dashboard.app import make_dashboard
from dashboard.door import is_loopback
from workers.errors import NotThereError


def run_dashboard(settings: Settings, catalog: Catalog) -> None:
    """Serve the dashboard until SIGTERM or SIGINT.

    Raises:
        SettingsError: others could come in, and nobody asks who they are.
        NotThereError: the address or port cannot be had.
    """
    address, port = settings.dashboard_address, settings.dashboard_port
    if not (is_loopback(address) or settings.dashboard_password_hash or settings.dashboard_user_header):
        expected = (
            "an address of this machine alone, or beside it FLEET_DASHBOARD_PASSWORD_HASH "
            "or FLEET_DASHBOARD_USER_HEADER"
        )
        raise SettingsError("FLEET_DASHBOARD_ADDRESS", address, expected)
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.create_server((address, port), family=family)
    except OSError as error:
        raise NotThereError(
            f"the dashboard cannot listen on {address}:{port} ({error.strerror})",
            "end what listens there, or set FLEET_DASHBOARD_PORT to another port",
        ) from error
    config = uvicorn.Config(
        make_dashboard(settings, catalog),
        proxy_headers=False,  # who is believed is a setting of ours
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run([listening])

"""Where a server is, in words that give no secret away."""

from ipaddress import ip_address
from urllib.parse import parse_qs, unquote, urlsplit

from config.settings import is_readable, without_password

LOCAL = ("", "localhost")


def place_of(url: str, variable: str) -> str:
    """Name a server by its URL, or by the variable that holds one which cannot be read."""
    return without_password(url) if is_readable(url) else f"what {variable} holds"


def host_of(url: str) -> str:
    """Tell the host of a URL; empty: a socket, or libpq's default."""
    parts = urlsplit(url)
    host = parts.hostname or parse_qs(parts.query).get("host", [""])[0]
    return unquote(host)


def is_local(url: str) -> bool:
    """Tell whether a server is reached without a network."""
    host = host_of(url)
    if host in LOCAL or host.startswith(("/", "@")) or urlsplit(url).scheme == "unix":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

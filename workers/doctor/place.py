"""Where a server is, in words that give no secret away."""

from ipaddress import ip_address
from urllib.parse import parse_qs, unquote, urlsplit

from config.settings import without_password

LOCAL = ("", "localhost")


def is_readable(url: str) -> bool:
    """Tell whether a URL means what it seems to.

    A password with an unescaped `/`, `#`, `?` or `@` makes the rest of it a port, a path or a host; such a
    URL must not be printed, not even without what looks like its password.
    """
    parts = urlsplit(url)
    try:
        _ = parts.port
    except ValueError:
        return False
    rest = (parts.path, parts.fragment, parts.netloc.rpartition("@")[0], parts.query.partition("host=")[0])
    return not any("@" in part for part in rest) and not parts.fragment


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

"""The environment, read once into `Settings`: nothing else in the project reads os.environ."""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from config.errors import SettingsError
from config.periods import read_period

DEFAULT_MAX_PAYLOAD_BYTES = 1_000_000
"""A prompt of 250,000 tokens: more than any model of the shipped catalog can read."""

DEFAULT_FLOWER_PORT = 5555

DEFAULT_DASHBOARD_PORT = 5550

ARGON2 = "$argon2id$"

NOTHING = timedelta(0)
A_MONTH = timedelta(days=31)
"""Budgets of this month are added up over attempts."""
A_CENTURY = timedelta(days=36500)

SHIPPED_CONFIG = Path(__file__).parent


@dataclass(frozen=True)
class Settings:
    """Where the fleet's parts are and how much they take; every field has a working default."""

    home: Path
    """Data of the embedded services, the Flower password, the pid of `fleet up`."""
    models: Path
    """Where `fleet pull` keeps model files; shared by all fleets of a user."""
    config: Path
    """The folder of models.yaml, profiles.yaml and schedule.yaml."""
    redis_url: str
    """In redis-py's form: redis://, rediss:// or unix://."""
    database_url: str
    """In libpq's form."""
    redis_is_embedded: bool
    database_is_embedded: bool
    max_payload_bytes: int
    keep_text: timedelta
    """How long prompts and answers stay in the ledger, where a profile says nothing else; 0: never stored."""
    keep_attempts: timedelta | None
    """How long attempts stay in the ledger, in whole months; None: for ever."""
    model_memory_bytes: int | None
    """What the models of a worker may take together; None: what the host has."""
    unload_after: timedelta
    """A worker gives up a model that nobody used for so long; 0: never."""
    log_level: str
    flower_address: str
    """Where Flower listens; it asks for its password everywhere."""
    mlx_on_cpu: bool
    """Whether MLX models may run without a Mac's GPU: slowly, for tests."""
    flower_port: int
    flower_password: str | None
    """None: `fleet up` makes one and keeps it in `home`."""
    otlp_endpoint: str | None
    """Where OpenTelemetry's spans go; None: there are none. The exporter reads the variable itself."""
    dashboard_address: str
    """Where the dashboard listens; beyond this machine it wants a password or a proxy's header."""
    dashboard_port: int
    dashboard_password_hash: str | None
    """An argon2 hash; None: no password is asked."""
    dashboard_user_header: str | None
    """The header in which a reverse proxy names who has logged in; None: there is no such proxy."""
    dashboard_proxies: tuple[IPv4Network | IPv6Network, ...]
    """From where that header is believed."""
    dashboard_database_url: str
    """The ledger for a role that may only read; without one the fleet's own."""

    @property
    def sockets(self) -> Path:
        """The folder of the embedded services' sockets.

        Not inside `home`: a socket's path must stay under 104 bytes (macOS).
        """
        return socket_folder(self.home)

    @property
    def dashboard_url(self) -> str:
        host = f"[{self.dashboard_address}]" if ":" in self.dashboard_address else self.dashboard_address
        return f"http://{host}:{self.dashboard_port}"

    @property
    def broker_url(self) -> str:
        """`redis_url` in Celery's form, which calls a socket `redis+socket://`."""
        return in_celery_form(usable(self.redis_url), socket_scheme="redis+socket")

    @property
    def result_url(self) -> str:
        """`redis_url` as the part of Celery's `result_backend` after the class name."""
        return in_celery_form(self.redis_url, socket_scheme="socket")


@cache
def settings() -> Settings:
    """Read this process's settings, once.

    Raises:
        SettingsError: a variable holds what it cannot hold.
    """
    return read_settings(os.environ)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings out of an environment.

    Raises:
        SettingsError: a variable holds what it cannot hold.
    """
    home = folder(environ, "FLEET_HOME", default=default_home(environ))
    redis_url = environ.get("FLEET_REDIS_URL")
    database_url = environ.get("FLEET_DATABASE_URL")
    check_scheme("FLEET_REDIS_URL", redis_url, ("redis", "rediss", "unix"))
    check_scheme("FLEET_DATABASE_URL", database_url, ("postgresql", "postgres"))
    dashboard_database_url = environ.get("FLEET_DASHBOARD_DATABASE_URL")
    check_scheme("FLEET_DASHBOARD_DATABASE_URL", dashboard_database_url, ("postgresql", "postgres"))
    return Settings(
        home=home,
        models=folder(environ, "FLEET_MODELS", default=Path.home() / ".cache/aria-fleet/models"),
        config=folder(environ, "FLEET_CONFIG", default=SHIPPED_CONFIG),
        redis_url=redis_url or embedded_redis_url(home),
        database_url=database_url or embedded_database_url(home),
        redis_is_embedded=not redis_url,
        database_is_embedded=not database_url,
        max_payload_bytes=positive(environ, "FLEET_MAX_PAYLOAD_BYTES", DEFAULT_MAX_PAYLOAD_BYTES),
        keep_text=kept(environ, "FLEET_KEEP_TEXT", default="30d", at_least=NOTHING),
        keep_attempts=kept(environ, "FLEET_KEEP_ATTEMPTS", at_least=A_MONTH)
        if environ.get("FLEET_KEEP_ATTEMPTS")
        else None,
        model_memory_bytes=positive(environ, "FLEET_MODEL_MEMORY_MB", 1) * 1_000_000
        if environ.get("FLEET_MODEL_MEMORY_MB")
        else None,
        unload_after=kept(environ, "FLEET_UNLOAD_AFTER", default="30m", at_least=NOTHING),
        log_level=level(environ),
        flower_address=environ.get("FLEET_FLOWER_ADDRESS") or "127.0.0.1",
        mlx_on_cpu=environ.get("FLEET_MLX_ON_CPU", "") not in ("", "0"),
        flower_port=positive(environ, "FLEET_FLOWER_PORT", DEFAULT_FLOWER_PORT),
        flower_password=environ.get("FLEET_FLOWER_PASSWORD") or None,
        otlp_endpoint=environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None,
        dashboard_address=environ.get("FLEET_DASHBOARD_ADDRESS") or "127.0.0.1",
        dashboard_port=positive(environ, "FLEET_DASHBOARD_PORT", DEFAULT_DASHBOARD_PORT),
        dashboard_password_hash=password_hash(environ, "FLEET_DASHBOARD_PASSWORD_HASH"),
        dashboard_user_header=environ.get("FLEET_DASHBOARD_USER_HEADER") or None,
        dashboard_proxies=networks(environ, "FLEET_DASHBOARD_PROXIES", default="127.0.0.1,::1"),
        dashboard_database_url=dashboard_database_url or database_url or embedded_database_url(home),
    )


def has_key(name: str) -> bool:
    """Tell whether a provider's key is set, without reading it out."""
    return bool(os.environ.get(name))


def provider_key(name: str) -> str | None:
    """Read a provider's key, in the process that sends it and in no other; None: it is not set."""
    return os.environ.get(name) or None


def take_keys(names: Iterable[str]) -> dict[str, str]:
    """Take keys out of the environment, so that only those get them to whom they are given."""
    return {name: key for name in names if (key := os.environ.pop(name, None))}


def environment_with(keys: Mapping[str, str]) -> dict[str, str]:
    """Make the environment of a process that is to have some keys."""
    return {**os.environ, **keys}


def environment_for_service(keys: Collection[str] = ()) -> dict[str, str]:
    """Make the environment of a service that shall see what this process sees.

    Args:
        keys: the variables of the providers' keys that it is given; all others are left out.
    """
    ours = re.compile(
        "FLEET_.+|HF_(HOME|HUB_CACHE|ENDPOINT)|XDG_(DATA|CACHE)_HOME|OLLAMA_MODELS"
        "|OTEL_EXPORTER_OTLP_.+|(?i:(https?|all|no)_proxy)"
    )
    return {name: value for name, value in sorted(os.environ.items()) if name in keys or ours.fullmatch(name)}


def printable_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Make a service's environment printable: paths and servers stay, passwords and keys do not."""
    return {name: printable(name, value) for name, value in environment.items()}


def printable(name: str, value: str) -> str:
    if "://" in value:
        return without_password(value)
    is_public = re.match("(FLEET|HF|XDG|OLLAMA)_", name) and "password" not in name.lower()
    return value if is_public else "(not shown)"


def quiet_litellm() -> None:
    """Keep litellm to itself: without this its import fetches a list of prices and reads `.env` files."""
    for variable in (
        "LITELLM_LOCAL_MODEL_COST_MAP=True",
        "LITELLM_OFFLINE_MODE=true",
        "LITELLM_MODE=PRODUCTION",
    ):
        name, _, value = variable.partition("=")
        os.environ[name] = value


def ollama_stores() -> tuple[Path, ...]:
    """List the folders in which Ollama may keep models on this host: its user's, its service's."""
    own = folder(os.environ, "OLLAMA_MODELS", default=Path.home() / ".ollama/models")
    return own, Path("/usr/share/ollama/.ollama/models")


def usual_home() -> Path:
    """Tell the home of a fleet for which FLEET_HOME says nothing."""
    return default_home(os.environ)


def default_home(environ: Mapping[str, str]) -> Path:
    """Choose a folder for the fleet's data.

    Root gets one outside its private home: Postgres refuses to run as root, so the embedded one
    runs as `nobody`, who has to reach its files.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/aria-fleet")
    data = environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local/share") / "aria-fleet"


def socket_folder(home: Path) -> Path:
    mark = hashlib.sha256(str(home).encode()).hexdigest()[:8]
    return Path(f"/tmp/aria-fleet-{os.geteuid()}-{mark}")  # noqa: S108 - made with mode 0700


def embedded_redis_url(home: Path) -> str:
    return f"unix://{socket_folder(home)}/redis/redis.sock"


def embedded_database_url(home: Path) -> str:
    where = {"host": str(socket_folder(home) / "postgres"), "user": "postgres"}
    return f"postgresql:///fleet?{urlencode(where, quote_via=quote, safe='/')}"


def in_celery_form(redis_url: str, *, socket_scheme: str) -> str:
    """Write a Redis URL as Celery reads it, which wants to be told that certificates are checked."""
    if redis_url.startswith("rediss://") and "ssl_cert_reqs=" not in redis_url:
        return f"{redis_url}{'&' if urlsplit(redis_url).query else '?'}ssl_cert_reqs=required"
    return redis_url.replace("unix://", f"{socket_scheme}://", 1)


def folder(environ: Mapping[str, str], name: str, *, default: Path) -> Path:
    value = environ.get(name)
    return Path(value).expanduser().absolute() if value else default


def positive(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name)
    if not value:
        return default
    if not value.isdecimal() or int(value) == 0:
        raise SettingsError(name, value, "a whole number above 0")
    return int(value)


def kept(environ: Mapping[str, str], name: str, default: str = "", *, at_least: timedelta) -> timedelta:
    value = environ.get(name) or default
    try:
        period = NOTHING if value == "0" else read_period(value)
    except (ValueError, OverflowError):
        period = None
    if period is None or not at_least <= period <= A_CENTURY:
        least = f"{at_least.days}d" if at_least else "0"
        expected = f"a number and s, m, h or d, such as 90d, from {least} to {A_CENTURY.days}d"
        raise SettingsError(name, value, expected)
    return period


def password_hash(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name)
    if value and not value.startswith(ARGON2):
        # The value is not repeated: it may be the password itself.
        raise SettingsError(
            name, "...", f"a hash that begins with {ARGON2}: `fleet dashboard --hash-password`"
        )
    return value or None


def networks(environ: Mapping[str, str], name: str, *, default: str) -> tuple[IPv4Network | IPv6Network, ...]:
    value = environ.get(name) or default
    try:
        return tuple(ip_network(part.strip()) for part in value.split(","))
    except ValueError:
        raise SettingsError(name, value, "addresses or networks with commas, such as 10.0.0.0/8") from None


def level(environ: Mapping[str, str]) -> str:
    known = ("debug", "info", "warning", "error")
    value = (environ.get("FLEET_LOG_LEVEL") or "info").lower()
    if value not in known:
        raise SettingsError("FLEET_LOG_LEVEL", value, f"one of {', '.join(known)}")
    return value


def check_scheme(name: str, url: str | None, known: tuple[str, ...]) -> None:
    if url and urlsplit(url).scheme not in known:
        # The value is not repeated: a URL may carry a password.
        raise SettingsError(
            name, f"{urlsplit(url).scheme or 'no scheme'}://...", " or ".join(f"{k}://" for k in known)
        )


def usable(redis_url: str) -> str:
    """Give a URL of Redis back, unless its port is none.

    Libraries would repeat it, and it is then a piece of a password.

    Raises:
        SettingsError: it is.
    """
    parts = urlsplit(redis_url)
    try:
        _ = parts.port
    except ValueError:
        expected = "an address whose password is percent-encoded: %2F for /, %40 for @"
        raise SettingsError("FLEET_REDIS_URL", f"{parts.scheme}://...", expected) from None
    return redis_url


def use_home(home: Path) -> None:
    """Give this process, and those that it starts, a fleet of its own with embedded services."""
    for name in ("FLEET_REDIS_URL", "FLEET_DATABASE_URL", "FLEET_DASHBOARD_DATABASE_URL"):
        os.environ.pop(name, None)
    os.environ["FLEET_HOME"] = str(home)
    settings.cache_clear()


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


def without_password(url: str) -> str:
    """Make a server's URL printable; of one that cannot be read, only the scheme."""
    parts = urlsplit(url)
    if not is_readable(url):
        return f"{parts.scheme}://... (not shown: its password is not percent-encoded)"
    user, _, host = parts.netloc.rpartition("@")
    name_of_user = user.partition(":")[0]
    query = [f"{name}={value}" for name, value in parse_qsl(parts.query) if "password" not in name.lower()]
    netloc = f"{name_of_user}@{host}" if name_of_user else host
    # Put together by hand: urlunsplit drops the empty host of postgresql:///fleet.
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{'&'.join(query)}"

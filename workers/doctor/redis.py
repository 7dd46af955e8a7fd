"""Redis: is it there, and does it keep what it is given."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from config.settings import Settings, is_readable
from workers.app import DISPATCH_QUEUE
from workers.doctor.finding import Finding, counted, error, note, ok, warning
from workers.doctor.look import LIMIT_S, NOT_RUNNING, Cause, Silence, named
from workers.doctor.place import is_local, place_of
from workers.embedded.redis import Redis as Embedded
from workers.inbox import Inbox

VARIABLE = "FLEET_REDIS_URL"

OLDEST = (6, 2)
"""The first Redis with LMOVE and ACLs on channels, which clients of today expect."""

PINGS = 5

SLOW_S = 0.05
"""The best of a few round trips; enqueueing a task takes at least one."""

NEARLY_FULL = 0.9

BY_ITS_NAME = f"call it in {VARIABLE} by the name that its certificate has"

NOT_TLS = f"name the port on which it does, or write redis:// in {VARIABLE} in a network of your own"

CAUSES: tuple[Cause, ...] = (
    ("Connection refused", "is not there: the connection was refused", None),
    ("ostname mismatch", "is not trusted: its certificate is for another name", BY_ITS_NAME),
    ("IP address mismatch", "is not trusted: its certificate is for another name", BY_ITS_NAME),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "is not trusted: nobody known here has signed its certificate",
        f"name the authority that signed it in {VARIABLE}: `?ssl_ca_certs=FILE`",
    ),
    ("RECORD_LAYER_FAILURE", "does not speak TLS there", NOT_TLS),
    ("WRONG_VERSION_NUMBER", "does not speak TLS there", NOT_TLS),
    ("No such file", "cannot be checked: the file of certificates is not there", f"correct {VARIABLE}"),
    ("closed by server", "closed the connection", f"if it wants TLS, write rediss:// in {VARIABLE}"),
    ("reset by peer", "closed the connection", f"if it wants TLS, write rediss:// in {VARIABLE}"),
    ("not known", "has a name that this host cannot resolve", f"correct it in {VARIABLE}"),
    ("name resolution", "has a name that this host cannot resolve", f"correct it in {VARIABLE}"),
)
"""Of redis-py's silences; the first that fits counts."""

FULL_AT_NOEVICTION = "give it more `maxmemory`: at its limit it refuses to take tasks"


@dataclass(frozen=True)
class RedisFacts:
    """What a Redis says of itself."""

    best_ping_s: float
    info: Mapping[str, Any]
    """Of INFO; empty: this user may not ask."""
    fsync: str | None
    """Of `appendfsync`; None: this user may not ask, or the service does not tell."""
    not_accepted: int
    """Tasks that no dispatcher has read yet."""
    dead_letters: int


def look(settings: Settings) -> RedisFacts | Silence:
    """Ask it."""
    if not is_readable(settings.redis_url):
        return Silence("cannot be read", "write the password's special characters as %XX")
    if settings.redis_is_embedded and not Embedded(settings.home, settings.sockets).is_locked():
        return NOT_RUNNING
    try:
        with redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=LIMIT_S - 0.5,
            socket_connect_timeout=LIMIT_S - 0.5,
            retry=Retry(NoBackoff(), retries=0),
            decode_responses=True,
        ) as client:
            return ask(client)
    except redis.RedisError as fault:
        return Silence(*why_silent(fault))


def ask(client: redis.Redis) -> RedisFacts:
    client.ping()
    inbox = Inbox(client, DISPATCH_QUEUE)
    return RedisFacts(
        best_ping_s=min(ping_s(client) for _ in range(PINGS)),
        info=allowed(client.info) or {},
        fsync=(allowed(lambda: client.config_get("appendfsync")) or {}).get("appendfsync"),
        not_accepted=sum(allowed(lambda name=name: client.llen(name)) or 0 for name in inbox.lists),
        dead_letters=allowed(lambda: client.llen(inbox.dead_letters)) or 0,
    )


def ping_s(client: redis.Redis) -> float:
    began = time.perf_counter()
    client.ping()
    return time.perf_counter() - began


def allowed(question: Any) -> Any:  # noqa: ANN401 - redis-py's answers have no useful type
    """Ask what a user with few rights may not ask."""
    try:
        return question()
    except redis.ResponseError:
        return None


def why_silent(fault: redis.RedisError) -> tuple[str, str | None]:
    """Put an error into words of our own: redis-py's may repeat a part of the URL."""
    match fault:
        case redis.AuthenticationError():
            return "refuses the password", f"correct the user and password in {VARIABLE}"
        case NoPermissionError():
            return "lets this user do nothing", "give it its rights: `ACL SETUSER`"
        case redis.BusyLoadingError():
            return "still reads its data", "wait, then ask again"
        case redis.ConnectionError() | redis.TimeoutError():
            return why_unconnected(fault)
        case _:
            return f"does not answer ({type(fault).__name__})", None


def why_unconnected(fault: redis.RedisError) -> tuple[str, str | None]:
    if cause := named(str(fault), CAUSES):
        return cause
    if isinstance(fault, redis.TimeoutError):
        return f"gave no answer within {LIMIT_S:.0f} s", None
    return f"does not answer ({type(fault).__name__})", None


def findings(settings: Settings, seen: RedisFacts | Silence, *, is_up: bool) -> Iterator[Finding]:
    """Judge it.

    Args:
        settings: of this host.
        seen: by `look`.
        is_up: a `fleet up` of this home is running, so that an embedded Redis has to run too.
    """
    where = place_of(settings.redis_url, VARIABLE)
    if isinstance(seen, Silence):
        yield absence(settings, seen, where, is_up=is_up)
        return
    kind = seen.info.get("server_name", "redis")
    version = str(seen.info.get(f"{kind}_version", seen.info.get("redis_version", "")))
    owner = "the embedded one" if settings.redis_is_embedded else where
    yield ok("redis.reachable", f"it answers: {kind} {version or 'of unknown version'}, {owner}")
    yield of_latency(seen.best_ping_s)
    yield of_password(settings)
    yield from of_encryption(settings)
    if not seen.info:
        yield note(
            "redis.settings",
            "this user may not run INFO, so its settings are not known",
            "make sure of `appendonly yes` and `maxmemory-policy noeviction`",
        )
    else:
        yield of_version(seen.info)
        yield of_append_only(settings, seen)
        yield of_eviction(settings, seen.info)
        yield from of_memory(seen.info)
        yield from of_role(seen.info)
    if seen.dead_letters:
        yield warning(
            "redis.dead_letters",
            f"put aside, because nobody could read it: {counted(seen.dead_letters, 'message')}",
            f"see why: `{cli(settings)} LRANGE {DISPATCH_QUEUE}.dead 0 9`; then remove the list with DEL",
        )


def absence(settings: Settings, seen: Silence, where: str, *, is_up: bool) -> Finding:
    if not settings.redis_is_embedded:
        what_to_do = seen.what_to_do or f"start it, or correct {VARIABLE}"
        return error("redis.reachable", f"{where} {seen.why}", what_to_do)
    if seen == NOT_RUNNING and not is_up:
        return note("redis.reachable", "the embedded Redis is not running", "`fleet up` starts it")
    what_to_do = seen.what_to_do or f"read {settings.home / 'redis.log'}; then `fleet down` and `fleet up`"
    return error("redis.reachable", f"the embedded Redis {seen.why}", what_to_do)


def of_latency(best_s: float) -> Finding:
    found = f"a round trip takes {best_s * 1000:.1f} ms"
    if best_s < SLOW_S:
        return ok("redis.latency", found)
    return warning(
        "redis.latency", f"{found} at best; every task takes several", "move the fleet nearer to its Redis"
    )


def of_password(settings: Settings) -> Finding:
    if is_local(settings.redis_url):
        return ok("redis.password", "it is reached without a network")
    if urlsplit(settings.redis_url).password:
        return ok("redis.password", "it is reached with a password")
    return warning(
        "redis.password",
        "it is reached over the network without a password: whoever reaches it can read and send tasks",
        f"set `requirepass`, and the password in {VARIABLE}: redis://:PASSWORD@host",
    )


def of_encryption(settings: Settings) -> Iterator[Finding]:
    check = "redis.tls"
    if is_local(settings.redis_url):
        return
    parts = urlsplit(settings.redis_url)
    if parts.scheme != "rediss":
        how = "without TLS"
    elif parse_qs(parts.query).get("ssl_cert_reqs", ["required"]) != ["required"]:
        how = "with TLS, but nobody checks its certificate"
    else:
        yield ok(check, "it is reached with TLS, and its certificate is checked")
        return
    yield note(
        check,
        f"it is reached over the network {how}: who is in between can read and change what is sent",
        f"`rediss://` in {VARIABLE}, and `tls-port` there, unless the network is your own",
    )


def of_version(info: Mapping[str, Any]) -> Finding:
    speaks = str(info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in speaks.split(".")[:2] if part.isdigit())
    if numbers >= OLDEST:
        return ok("redis.version", f"it speaks as Redis {speaks} does")
    oldest = ".".join(map(str, OLDEST))
    return warning(
        "redis.version", f"Redis {speaks} is older than {oldest}", "install Redis 7 or later, or Valkey"
    )


def of_append_only(settings: Settings, seen: RedisFacts) -> Finding:
    check = "redis.append_only"
    if not seen.info.get("aof_enabled"):
        return warning(
            check,
            "its append-only file is off: when it ends, tasks that no dispatcher has accepted are lost",
            mend(settings, "appendonly", "yes"),
        )
    if seen.info.get("aof_last_write_status", "ok") != "ok":
        return error(check, "it cannot write its append-only file", "make room on its disk, and read its log")
    if seen.fsync == "no":
        return warning(
            check,
            "its append-only file is written out whenever the system likes",
            mend(settings, "appendfsync", "everysec"),
        )
    return ok(check, f"its append-only file is on{f' (fsync {seen.fsync})' if seen.fsync else ''}")


def of_eviction(settings: Settings, info: Mapping[str, Any]) -> Finding:
    policy, limit = info.get("maxmemory_policy", "noeviction"), int(info.get("maxmemory", 0))
    if policy == "noeviction":
        return ok("redis.eviction", "it evicts nothing (noeviction)")
    what_to_do = mend(settings, "maxmemory-policy", "noeviction")
    if limit:
        return error(
            "redis.eviction",
            f"maxmemory-policy is {policy}: when it is full it throws tasks away",
            what_to_do,
        )
    return warning(
        "redis.eviction",
        f"maxmemory-policy is {policy}: once somebody sets `maxmemory`, it throws tasks away",
        what_to_do,
    )


def of_memory(info: Mapping[str, Any]) -> Iterator[Finding]:
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if limit and used > NEARLY_FULL * limit:
        yield warning("redis.memory", f"{used / limit:.0%} of its memory is used", FULL_AT_NOEVICTION)
    elif limit:
        yield ok("redis.memory", f"{used / limit:.0%} of its memory is used")


def of_role(info: Mapping[str, Any]) -> Iterator[Finding]:
    if info.get("role", "master") != "master":
        yield error("redis.role", "it is a replica, which takes no tasks", f"name its primary in {VARIABLE}")


def mend(settings: Settings, name: str, value: str) -> str:
    """Say how a setting is changed."""
    if settings.redis_is_embedded:
        return "`fleet down`, then `fleet up`: it starts with the right setting"
    return f"`{cli(settings)} CONFIG SET {name} {value}`, and `{name} {value}` in its configuration file"


def cli(settings: Settings) -> str:
    parts = urlsplit(settings.redis_url)
    if parts.scheme == "unix":
        return f"redis-cli -s {parts.path}"
    return f"redis-cli -h {parts.hostname or 'localhost'} -p {parts.port or 6379}"

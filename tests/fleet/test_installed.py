"""`fleet install` with a systemd that really runs: one of the test's own, in a namespace of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SYSTEMD = "/usr/lib/systemd/systemd"

BEGIN = f"""
mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system || exit 0
{SYSTEMD} --user > systemd.log 2>&1 &
manager=$!
for try in 1 2 3 4 5 6 7 8 9 10; do
    sleep 0.5
    systemctl --user show-environment > /dev/null 2>&1 && break
done
systemctl --user show-environment > /dev/null 2>&1 && echo is-there || exit 0
"""
"""Its folder in /run says that systemd has started the machine; outside the namespace nobody sees it."""

TRY = """
unit=aria-fleet-worker-echo
"$0" -m workers.cli install echo || exit 1
systemctl --user is-enabled $unit
sleep 2
systemctl --user show $unit --property=SubState --property=NoNewPrivileges
kill -9 $(systemctl --user show $unit --property=MainPID --value)
sleep 14
systemctl --user show $unit --property=NRestarts --property=SubState
systemctl --user stop $unit
systemctl --user show $unit --property=ActiveState
kill $manager
wait $manager
"""


def can_have_a_systemd() -> bool:
    return os.geteuid() == 0 and Path(SYSTEMD).exists() and shutil.which("unshare") is not None


@pytest.mark.skipif(not can_have_a_systemd(), reason="needs root, systemd and unshare")
def test_systemd_starts_the_service_again_when_it_was_killed(
    environment: dict[str, str], short_folder: Callable[[], Path]
):
    """`systemd-analyze verify` reads a unit; what a directive does to Python shows only when it runs."""
    home = short_folder()
    home.chmod(0o700)
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", BEGIN + TRY, sys.executable],
        env={**environment, "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PYTHONPATH": str(ROOT)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if "is-there" not in ran.stdout:
        pytest.skip(f"no systemd of a user can run here: {ran.stderr or (home / 'systemd.log').read_text()}")

    said = ran.stdout.splitlines()
    assert "enabled" in said, ran.stderr
    assert "NoNewPrivileges=yes" in said
    assert "NRestarts=1" in said
    assert said.count("SubState=running") == 2
    assert said[-1] == "ActiveState=inactive"

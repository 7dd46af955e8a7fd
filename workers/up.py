"""`fleet up`: the whole fleet of a host, in the foreground."""

import signal
from collections.abc import Callable, Mapping
from types import FrameType

from rich.console import Console

from config.catalog import Catalog
from config.settings import Settings, take_keys
from ledger.migrate import migrate
from workers import flower, pidfile, screen
from workers.down import end_leftovers
from workers.home import make_home, revive, services
from workers.lanes import LANES, LaneReport, report
from workers.procfile import processes
from workers.pull import pull, starter_of
from workers.supervisor import Supervisor


def up(settings: Settings, catalog: Catalog, console: Console) -> None:
    """Run the fleet of this host until SIGINT, SIGTERM or SIGHUP, then stop what was started here.

    Raises:
        FleetIsUpError: somebody does so already.
        EmbeddedServiceError: Redis or Postgres cannot be started.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)  # until the supervisor listens
    # From here on nothing that is started has a provider's key, unless it is given one.
    keys = take_keys(key for each in catalog.providers.values() if (key := each.api_key_env))
    make_home(settings)
    with pidfile.hold(settings.home):
        end_leftovers(settings.home, console)
        with services(settings, console):
            schema = migrate(settings.database_url)
            lanes = lanes_of(catalog, console, keys.__contains__)
            password, is_new = flower.password(settings)
            screen.show(console, settings, lanes, schema=schema, new_password=password if is_new else None)
            commands = processes([lane.lane for lane in lanes if lane.models])
            given = {f"worker-{lane.lane}": keys_for(lane, catalog, keys) for lane in lanes}
            Supervisor(
                commands,
                on_change=lambda pids: pidfile.record(settings.home, pids),
                tend=lambda: revive(settings),
                keys=given,
            ).run()


def keys_for(lane: LaneReport, catalog: Catalog, keys: Mapping[str, str]) -> dict[str, str]:
    """Choose the keys that a lane's worker needs: those of the providers that it asks."""
    asked = {catalog.providers[model.provider].api_key_env for model in lane.models if model.provider}
    return {name: key for name, key in keys.items() if name in asked}


def lanes_of(catalog: Catalog, console: Console, has_key: Callable[[str], bool]) -> list[LaneReport]:
    """Look what this host can serve; one that has nothing gets the starter model."""
    lanes = [report(lane, catalog, has_key) for lane in LANES]
    if any(lane.models for lane in lanes):
        return lanes
    starter = starter_of(catalog)
    if starter is None:
        return lanes
    console.print("No model is on this host yet: fetching the starter, which every machine can run.")
    pull(starter, console)
    return [report(lane, catalog, has_key) for lane in LANES]


def interrupt(*_: int | FrameType | None) -> None:
    raise KeyboardInterrupt

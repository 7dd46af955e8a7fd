"""`fleet up`: the whole fleet of a host, in the foreground."""

import signal
from types import FrameType

from rich.console import Console

from config.catalog import Catalog
from config.settings import Settings
from ledger.migrate import migrate
from workers import flower, pidfile, screen
from workers.down import end_leftovers
from workers.home import make_home, services
from workers.lanes import ENGINE_OF, LaneReport, report
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
    make_home(settings)
    with pidfile.hold(settings.home):
        end_leftovers(settings.home, console)
        with services(settings, console):
            schema = migrate(settings.database_url)
            lanes = lanes_of(catalog, console)
            password, is_new = flower.password(settings)
            screen.show(
                console, settings, catalog, lanes, schema=schema, new_password=password if is_new else None
            )
            commands = processes([lane.lane for lane in lanes if lane.models])
            Supervisor(commands, lambda pids: pidfile.record(settings.home, pids)).run()


def lanes_of(catalog: Catalog, console: Console) -> list[LaneReport]:
    """Look what this host can serve; one that has nothing gets the starter model."""
    lanes = [report(lane, catalog) for lane in ENGINE_OF]
    if any(lane.models for lane in lanes):
        return lanes
    starter = starter_of(catalog)
    if starter is None:
        return lanes
    console.print("No model is on this host yet: fetching the starter, which every machine can run.")
    pull(starter, console)
    return [report(lane, catalog) for lane in ENGINE_OF]


def interrupt(*_: int | FrameType | None) -> None:
    raise KeyboardInterrupt

"""Which parts of the fleet a host can keep running, and what each of them is given."""

import sys

from rich.console import Console

from config.catalog import Catalog
from config.settings import Settings, environment_for_service, printable_environment
from workers.down import DOWN_LIMIT_S
from workers.errors import NotThereError
from workers.install import launchd, systemd
from workers.install.service import Service
from workers.lanes import CLOUD_LANES, LANES, LaneReport, lane_of, report
from workers.procfile import DASHBOARD, has_dashboard, listed
from workers.supervisor import STOP_LIMIT_S

UP = "up"
"""All that this host can run, with servers of its own: it gets the keys of all its workers."""

READ_BY = {"FLEET_FLOWER_": "flower", "FLEET_DASHBOARD_": DASHBOARD}
"""Variables that one role reads; among them are the passwords of the pages."""


def process_of(role: str) -> str:
    """Name the process of a role: `cpu` is `worker-cpu`."""
    return f"worker-{role}" if role in LANES else role


def service_of(role: str, catalog: Catalog) -> Service:
    """Describe the service of a role, with the environment that it needs and no more."""
    process = process_of(role)
    given = keys_of(role, catalog)
    others = {provider.api_key_env for provider in catalog.providers.values()} - given
    environment = {
        name: value
        for name, value in environment_for_service(given).items()
        if name not in others and is_read_by(role, name)
    }
    if role == UP:
        return Service(process, "fleet up", environment, stop_s=round(DOWN_LIMIT_S))
    return Service(process, listed()[process], environment, stop_s=round(STOP_LIMIT_S))


def is_read_by(role: str, variable: str) -> bool:
    """Tell whether a variable is this role's; most are everybody's."""
    readers = [reader for prefix, reader in READ_BY.items() if variable.startswith(prefix)]
    return role == UP or not readers or role in readers


def keys_of(role: str, catalog: Catalog) -> set[str]:
    """Name the variables of the providers' keys that are sent by a worker of this role."""
    return {
        key
        for model in catalog.models.values()
        if model.provider and role in (UP, lane_of(model))
        if (key := catalog.providers[model.provider].api_key_env)
    }


def install(role: str, using: Settings, catalog: Catalog, console: Console, *, is_dry_run: bool) -> None:
    """Write the service of a role and start it, in place of an older one.

    Raises:
        NotThereError: something that the role needs is not here, or this host keeps no services.
    """
    service = service_of(role, catalog)
    host = launchd if sys.platform == "darwin" else systemd
    if is_dry_run:
        written = host.files(service, printable_environment(service.environment))
        for path, text in written.items():
            title = f"# {path}\n" if len(written) > 1 else ""
            console.print(f"{title}{text.decode()}", soft_wrap=True, markup=False, highlight=False)
        return
    check(role, catalog, console)
    host.start(service, console)
    if role != UP and (using.redis_is_embedded or using.database_is_embedded):
        console.print(
            f"It looks for the embedded servers of {using.home}, which only `fleet up` runs; for a fleet "
            "elsewhere set FLEET_REDIS_URL and FLEET_DATABASE_URL and call this again.",
            soft_wrap=True,
        )


def check(role: str, catalog: Catalog, console: Console) -> None:
    """Refuse a role that would end as soon as it starts; say of a worker what it waits for.

    Raises:
        NotThereError: what the role needs is not here.
    """
    if role == DASHBOARD and not has_dashboard():
        raise NotThereError("the dashboard is not installed", "pip install 'aria-fleet[dashboard]'")
    if role not in LANES:
        return
    found = report(role, catalog)
    if found.models:
        return
    if role in CLOUD_LANES:
        raise NotThereError(
            f"a worker for `{role}` has nothing to serve with what is set here: {missing(found)}",
            "set it, then call this again",
        )
    console.print(f"It has no model yet: {missing(found)}.", soft_wrap=True, markup=False)


def missing(found: LaneReport) -> str:
    said = [f"{name}: {why}" for name, why in found.missing]
    return "; ".join(said) or "the catalog has no model of this kind"

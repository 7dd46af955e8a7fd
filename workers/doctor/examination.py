"""All that is looked at, in one place."""

import socket

from config.errors import SettingsError
from config.settings import Settings, settings
from workers.doctor import catalog, fleet, host, models, postgres, redis
from workers.doctor.catalog import Faults, Reach
from workers.doctor.finding import Finding, error
from workers.doctor.fleet import NOT_UP, is_there
from workers.doctor.look import NOT_RUNNING, Look, Silence
from workers.doctor.models import NOTHING_SEEN


def examine() -> list[Finding]:
    """Examine the fleet that this process's environment names, in a few seconds at most.

    Returns:
        The findings, part by part, in the order in which they are best read.
    """
    try:
        return examine_with(settings())
    except SettingsError as fault:
        return [error("settings.valid", str(fault), "correct the environment; nothing starts before")]


def examine_with(using: Settings) -> list[Finding]:
    # All looks begin at once; only the models need the catalog first.
    of_redis = Look(lambda: redis.look(using))
    of_postgres = Look(lambda: postgres.look(using))
    of_up = Look(lambda: fleet.look(using))
    of_host = Look(lambda: host.look(using))
    loaded = Look(lambda: catalog.look(using)).result()
    if isinstance(loaded, Silence):
        loaded = Faults([f"{using.config} {loaded.why}"])
    known = None if isinstance(loaded, Faults) else loaded
    files = Look(lambda: models.look(known)).result() if known else NOTHING_SEEN

    up = of_up.result()
    running = NOT_UP if isinstance(up, Silence) else up
    messages, server = of_redis.result(), of_postgres.result()
    of_ledger = unknown(server) if isinstance(server, Silence) else server.fleet

    workers = [] if isinstance(of_ledger, Silence) else [w for w in of_ledger.workers if is_there(w)]
    queues = frozenset(queue for worker in workers for queue in worker.slots)
    queues_here = frozenset(
        queue for worker in workers if worker.host == socket.gethostname() for queue in worker.slots
    )
    here = NOTHING_SEEN if isinstance(files, Silence) else files
    return [
        *redis.findings(using, messages, is_up=running.pid is not None),
        *postgres.findings(using, server, is_up=running.pid is not None),
        *fleet.findings(
            running,
            of_ledger,
            known,
            not_accepted=0 if isinstance(messages, Silence) else messages.not_accepted,
        ),
        *catalog.findings(loaded, using, Reach(queues, here.served, here.starter)),
        *(catalog.findings_of_keys(known, queues=queues, queues_here=queues_here) if known else ()),
        *(models.findings(files, queues_here) if known else ()),
        *host.findings(using, of_host.result(), running),
    ]


def unknown(server: Silence) -> Silence:
    """Say of the ledger what was said of its server."""
    return server if server == NOT_RUNNING else Silence(f"Postgres {server.why}")

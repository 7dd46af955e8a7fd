"""`fleet`: the command line."""

import click

from workers.cli import asking, embedding, ledger, looking, mac, replaying, running, scheduling, spending
from workers.cli.group import Fleet


@click.group(cls=Fleet, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="aria-fleet", prog_name="fleet")
def main() -> None:
    """Run language-model work in the background, on the cheapest model that will do.

    \b
    Start here:
      fleet up                                   run everything on this host
      fleet complete "Hello" --profile social    ask, wait, print the answer
      fleet similar "cats" --collection posts    what was embedded and is nearest in meaning
      fleet status                               who is there, what waits
      fleet models                               which models are ready, and why the others are not
      fleet explain TASK                         why a task ran where it ran, or why it waits
      fleet spend                                what was used and saved, by model
      fleet doctor                               what is wrong here, and what to do about it
      fleet schedule                             what runs by the clock, how it went, what it costs
      fleet replay --config DIR                  what the last week would have cost under another config
    """


for command in (
    asking.complete_command,
    asking.cancel,
    embedding.embed_command,
    embedding.similar_command,
    embedding.collections,
    looking.status,
    looking.ping,
    looking.explain,
    looking.models,
    looking.doctor,
    replaying.replay,
    scheduling.schedule,
    spending.spend,
    running.up,
    running.down,
    running.demo,
    running.pull,
    running.dispatcher,
    running.worker,
    running.beat,
    running.flower,
    running.dashboard,
    running.install,
    mac.selftest,
    ledger.db,
    ledger.export,
):
    main.add_command(command)

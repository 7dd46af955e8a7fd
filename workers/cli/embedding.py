"""Commands that embed texts and search them."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from config.settings import settings
from workers.cli.asking import answer_of, print_books


@click.command(name="embed")
@click.argument("texts", nargs=-1)
@click.option("--model", help="An embedding model of the catalog; else routing.embedding.")
@click.option(
    "--input-type",
    type=click.Choice(["query", "document", "classification", "clustering"]),
    help="What the texts are for; the model's prefix for it is put before each.",
)
@click.option("--collection", help="Where `fleet similar` finds them; made at its first use.")
@click.option("--agent", help="Who asks; for the books.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole response, with the vectors.")
def embed_command(texts: Sequence[str], timeout: float, *, as_json: bool, **asked: Any) -> None:  # noqa: ANN401 - one per option
    """Turn TEXTS into vectors; without any, each line of standard input is one.

    A text that the model has read before is not computed again.

    \b
    Examples:
      fleet embed --collection notes "Buy milk" "Call the plumber"
      fleet embed --collection notes < notes.txt
      fleet embed --json "Hello" | jq '.data[0].embedding | length'
    """
    from workers.tasks import embed  # noqa: PLC0415

    given = list(texts) or [line.strip() for line in sys.stdin if line.strip()]
    response = answer_of(embed, (given,), asked, timeout)
    if as_json:
        click.echo(json.dumps(response))
        return
    dimensions = len(response["data"][0]["embedding"])
    click.echo(f"{len(given)} texts, {response['fleet']['cached']} known before, {dimensions} numbers each")
    print_books(response)


@click.command(name="similar")
@click.argument("text")
@click.option("--collection", required=True, help="Where to look: what `embed` was given.")
@click.option("-k", "k", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many to find.")
@click.option("--model", help="The one that the collection was made with; else routing.embedding.")
@click.option("--agent", help="Who asks; for the books.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def similar_command(text: str, timeout: float, *, as_json: bool, **asked: Any) -> None:  # noqa: ANN401 - one per option
    """Find the texts of a collection that are nearest to TEXT in meaning, best first.

    The score is the cosine of the angle between the two vectors: 1 is the same.

    \b
    Examples:
      fleet similar "something about sleep" --collection posts
      fleet similar "late deliveries" --collection tickets -k 20 --json | jq -r '.data[].text'
    """
    from workers.tasks import similar  # noqa: PLC0415

    response = answer_of(similar, (text,), asked, timeout)
    if as_json:
        click.echo(json.dumps(response, indent=2))
        return
    for each in response["data"]:
        said = each["text"] if each["text"] is not None else f"(not kept) sha256 {each['sha256']}"
        click.echo(f"{each['score']:.3f}  {said}")
    print_books(response)


@click.group()
def collections() -> None:
    """List the collections that `similar` searches, or drop one."""


@collections.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def list_command(*, as_json: bool) -> None:
    """List the collections with their models and sizes."""
    from ledger.passages import sizes  # noqa: PLC0415
    from workers.reading import reading  # noqa: PLC0415

    with reading(settings(), "collections") as db:
        found = sizes(db)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2, default=str))
        return
    for each in found:
        click.echo(f"{each.name}: {each.passages or 0} texts, {each.model}, {each.dimensions} numbers")


@collections.command()
@click.argument("name")
def drop(name: str) -> None:
    """Drop the collection NAME with its texts. Their vectors stay among those that are not computed again."""
    from psycopg.errors import LockNotAvailable  # noqa: PLC0415

    from ledger.passages import drop as run  # noqa: PLC0415
    from workers.reading import writing  # noqa: PLC0415

    with writing(settings(), "collections") as db:
        try:
            was_there = run(db, name)
        except LockNotAvailable as error:
            message = "somebody reads collections at length; nothing was dropped, try again"
            raise click.ClickException(message) from error
    if not was_there:
        message = f"no collection is named {name!r}; `fleet collections list` lists them"
        raise click.ClickException(message)
    click.echo(f"dropped {name}")

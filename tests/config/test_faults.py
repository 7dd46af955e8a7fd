"""A faulty catalog is refused, with every fault in one report."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.catalog import load_catalog
from config.errors import CatalogError

Write = Callable[..., Path]


def faults_of(folder: Path) -> tuple[str, ...]:
    with pytest.raises(CatalogError) as refused:
        load_catalog(folder)
    return tuple(fault.removeprefix(f"{folder}/") for fault in refused.value.faults)


A_DOZEN_FAULTS = """\
providers:
  openrouter: {api_key_env: OPENROUTER_API_KEY, limits: {requests_per_minute: 20}}
models:
  Trinity: {tier: local, engine: echo, context_tokens: 100}
  b: {teir: free, tier: free, engine: cloud, provider: openruter, upstream: b, context_tokens: 100}
  c: {tier: free, engine: cloud, upstream: c, context_tokens: many}
  d: {tier: local, engine: llama, context_tokens: 100}
  e: {tier: local, kind: embedding, engine: echo, context_tokens: 100, retired_on: 2026-01-01, successor: e}
  f: {tier: local, engine: echo, context_tokens: 100}
  f: {tier: paid, engine: echo, context_tokens: 100}
"""


UNSOURCED = "expected `source` and `checked_on` beside the limits: they are dated data"
MISSPELT = "expected the name of a provider, got 'openruter'; did you mean openrouter?"


def test_a_dozen_faults_are_reported_at_once(tmp_path: Path):
    """Who repairs a file one fault at a time starts the fleet ten times."""
    (tmp_path / "models.yaml").write_text(A_DOZEN_FAULTS)
    (tmp_path / "profiles.yaml").write_text("profiles:\n  social: {model: e}\nrouting: {primary: d}\n")
    (tmp_path / "schedule.yaml").write_text("# nothing yet\n")

    known = (
        "description, tier, kind, engine, provider, upstream, extra_body, timeouts, sources, "
        "chat_template, "
        "context_tokens, max_output_tokens, dimensions, prefixes, memory_gb, size_bytes, capabilities, "
        "prices, limits, retired_on, successor"
    )
    assert faults_of(tmp_path) == (
        f"models.yaml:2: providers.openrouter.limits: {UNSOURCED}",
        "models.yaml:4: models.Trinity: expected lower-case letters, digits, dots and hyphens, got 'Trinity'",
        f"models.yaml:5: models.b.provider: {MISSPELT}",
        f"models.yaml:5: models.b.teir: unknown key, expected one of {known}; did you mean tier?",
        "models.yaml:6: models.c.context_tokens: expected a whole number, got 'many'",
        "models.yaml:6: models.c.provider: is missing; the engine cloud needs it",
        "models.yaml:7: models.d.sources: expected at least one: the engine llama needs a file to run",
        "models.yaml:8: models.e.dimensions: is missing; an embedding model has a fixed length",
        "models.yaml:8: models.e.successor: expected an end, got a ring: e -> e",
        "models.yaml:10: models.f.prices: expected at least one: what a paid model costs must be known",
        "models.yaml:10: models.f: is there twice, expected once",
        "profiles.yaml:2: profiles.social.max_tokens: is missing",
        "profiles.yaml:2: profiles.social.model: expected a chat model, got e, which is of kind embedding",
        "profiles.yaml:2: profiles.social.prompt: is missing",
        "profiles.yaml:2: profiles.social.temperature: is missing",
    )


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        (
            "  small:\n    tier: local",
            "  small:\n    tier: locl",
            "models.yaml:6: models.small.tier",
            "expected 'local', 'free' or 'paid', got 'locl'",
        ),
        (
            "sources: [{ollama: small}]",
            "sources: []",
            "models.yaml:8: models.small.sources",
            "expected at least one: the engine llama needs a file to run",
        ),
        (
            "{ollama: small}",
            "{olama: small}",
            "models.yaml:8: models.small.sources[0]",
            "expected one of the keys file, hugging_face, pypi, ollama",
        ),
        (
            "{ollama: small}",
            "{hugging_face: a/b}",
            "models.yaml:8: models.small.sources[0].filename",
            "is missing; the engine llama runs one GGUF of the repository",
        ),
        (
            "{ollama: small}",
            "{pypi: a==1, filename: b}",
            "models.yaml:8: models.small.sources[0].sha256",
            "is missing",
        ),
        (
            "{ollama: small}",
            "{file: small.gguf}",
            "models.yaml:8: models.small.sources[0]",
            "expected an absolute path or one that starts with ~, got 'small.gguf'",
        ),
        (
            "    upstream: someone/free\n",
            "",
            "models.yaml:10: models.free.upstream",
            "is missing; the engine cloud needs it",
        ),
        (
            "  free:\n    tier: free",
            "  free:\n    tier: local",
            "models.yaml:11: models.free.tier",
            "expected free or paid, got local; its provider has no api_base of yours",
        ),
        (
            "    dimensions: 768\n",
            "",
            "models.yaml:16: models.vectors.dimensions",
            "is missing; an embedding model has a fixed length",
        ),
        (
            "    dimensions: 768",
            "    dimensions: 768\n    successor: small",
            "models.yaml:16: models.vectors.retired_on",
            "is missing; a successor counts from that day on",
        ),
        (
            "someone/free",
            "someone/free\n    retired_on: 2026-02-30",
            "models.yaml:15: models.free.retired_on",
            "expected a date such as 2026-11-23, got '2026-02-30'",
        ),
        (
            "  social:\n    model: free",
            "  social:\n    model: vectors",
            "profiles.yaml:3: profiles.social.model",
            "expected a chat model, got vectors, which is of kind embedding",
        ),
        (
            "    prompt: Write a post.\n",
            "    prompt: Write a post.\n    max_tier: local\n",
            "profiles.yaml:3: profiles.social.model",
            "expected tier local (max_tier) or cheaper, got free, which is free",
        ),
        (
            "    prompt: Write a post.\n",
            "",
            "profiles.yaml:2: profiles.social.prompt",
            "is missing",
        ),
        (
            "temperature: 0.8",
            "temperature: .nan",
            "profiles.yaml:5: profiles.social.temperature",
            "expected a finite number, got nan",
        ),
        (
            "last_resort: [small]",
            "last_resort: [free]",
            "profiles.yaml:13: routing.last_resort[0]",
            "expected a local model, got free, which is free",
        ),
        (
            "primary: free",
            "primary: fre",
            "profiles.yaml:11: routing.primary",
            "expected the name of a model, got 'fre'; did you mean free?",
        ),
        (
            "profile: social",
            "profile: sociable",
            "schedule.yaml:2: schedule.heartbeat.profile",
            "expected the name of a profile, got 'sociable'; did you mean social?",
        ),
        (
            "every: 15m",
            "every: 15",
            "schedule.yaml:2: schedule.heartbeat.every",
            "expected a number and s, m, h or d, such as 15m, got 15",
        ),
        (
            "every: 15m",
            "every: 99999999999999d",
            "schedule.yaml:2: schedule.heartbeat.every",
            "expected a period that ends, got '99999999999999d'",
        ),
        *(
            ("{every: 15m, profile: social}", entry, f"schedule.yaml:2: schedule.heartbeat{key}", what)
            for entry, key, what in (
                ("{profile: social}", "", "expected one of every and cron, got none"),
                ("{every: 1m, cron: 0 0 * * *, profile: a}", "", "expected one of every and cron, got both"),
                ("{every: 1m}", "", "expected a profile, which carries a prompt, or a prompt or messages"),
                (
                    "{every: 1m, task: embed, profile: social}",
                    "",
                    "expected task: complete beside profile, got embed",
                ),
                ("{every: 1m, task: embed}", "", "expected a prompt, the text to embed"),
                (
                    "{every: 1m, profile: social, collection: notes}",
                    "",
                    "expected a collection beside task: embed alone",
                ),
                (
                    '{cron: "0 0 * * * *", profile: social}',
                    ".cron",
                    "expected 5 fields, such as '*/15 * * * *', got '0 0 * * * *'",
                ),
                (
                    '{cron: "61 * * * *", profile: social}',
                    ".cron",
                    "expected 5 fields of cron, got '61 * * * *' (bad minute)",
                ),
                (
                    '{cron: "0 0 * * 1,2L/2", profile: social}',
                    ".cron",
                    "expected 5 fields of cron, got '0 0 * * 1,2L/2' (bad day-of-week)",
                ),
                (
                    "{cron: 0 0 * * *, timezone: Europe/Berlim, profile: social}",
                    ".timezone",
                    (
                        "expected a time zone such as Europe/Berlin, got 'Europe/Berlim'; "
                        "did you mean Europe/Berlin?"
                    ),
                ),
                (
                    "{every: 1m, profile: social, deliver: {webhook: 'ftp://a'}}",
                    ".deliver.webhook",
                    "expected an address such as https://example.com/hook",
                ),
                (
                    "{every: 1m, profile: social, deliver: {celery_task: a, redis_list: b}}",
                    ".deliver",
                    "expected one of webhook, celery_task, redis_list, got celery_task and redis_list",
                ),
                ("{every: 1m, jitter: 2m, profile: social}", "", "expected a jitter shorter than every"),
                (
                    "{every: 1m, prompt: a, focus: nobody}",
                    ".focus",
                    "expected the name of a focus, got 'nobody'",
                ),
            )
        ),
        (
            "{every: 15m, profile: social}",
            "",
            "schedule.yaml:2: schedule.heartbeat",
            "expected keys with values, got nothing",
        ),
        (
            "  heartbeat: {",
            "  heartbeat: {name: pulse, ",
            "schedule.yaml:2: schedule.heartbeat.name",
            "unknown key, expected none: 'heartbeat' is the name",
        ),
    ],
)
def test_a_fault_says_file_line_key_and_what_was_expected(
    write: Write, old: str, new: str, where: str, what: str
):
    """ "Validation failed" sends a person to the source code; the place and the expectation do not."""
    assert f"{where}: {what}" in faults_of(write((old, new)))


def test_a_fault_in_an_entry_does_not_hide_its_other_faults(write: Write):
    """Checks that begin when an entry is valid would report in a second round what was wrong in the first."""
    folder = write(
        ("temperature: 0.8", "temperature: warm"), ("model: free\n    fall", "model: fre\n    fall")
    )

    assert faults_of(folder) == (
        "profiles.yaml:3: profiles.social.model: expected the name of a model, got 'fre'; did you mean free?",
        "profiles.yaml:5: profiles.social.temperature: expected a number, got 'warm'",
    )


def test_a_faulty_entry_is_still_known_by_its_name(write: Write):
    """One wrong number in a model must not be reported again by each profile that names the model."""
    folder = write(("context_tokens: 8192\n  free", "context_tokens: 0\n  free"))

    assert faults_of(folder) == (
        "models.yaml:9: models.small.context_tokens: expected a number above 0, got 0",
    )


def test_a_ring_of_successors_is_reported_once(write: Write):
    """Resolving a name in a ring would not end."""
    gone = "retired_on: 2026-01-01"
    other = f"  other: {{tier: local, engine: echo, context_tokens: 9, {gone}, successor: small}}\n"
    folder = write(
        (
            "    sources: [{ollama: small}]\n",
            f"    sources: [{{ollama: small}}]\n    {gone}\n    successor: other\n",
        ),
        ("models:\n", f"models:\n{other}"),
    )

    assert faults_of(folder) == (
        "models.yaml:5: models.other.successor: expected an end, got a ring: other -> small -> other",
    )


def test_a_free_model_is_not_succeeded_by_a_paid_one(write: Write):
    """The day on which a free id dies must not be the day on which its tasks begin to cost money."""
    day = "2026-01-01"
    price = f"{{input_usd_per_mtok: 1, output_usd_per_mtok: 1, since: {day}, source: s, checked_on: {day}}}"
    folder = write(
        (
            "models:\n",
            f"models:\n  dear: {{tier: paid, engine: echo, context_tokens: 9, prices: [{price}]}}\n",
        ),
        ("upstream: someone/free", "upstream: someone/free\n    retired_on: 2026-01-01\n    successor: dear"),
    )

    assert faults_of(folder) == (
        "models.yaml:17: models.free.successor: expected tier free or cheaper, got dear, which is paid",
    )


def test_prices_out_of_order_are_refused(write: Write):
    """A price after a younger one would never be found."""
    price = "{input_usd_per_mtok: 1, output_usd_per_mtok: 1, since: %s, source: s, checked_on: 2026-01-01}"
    prices = f"prices: [{price % '2026-06-01'}, {price % '2026-01-01'}]"

    faults = faults_of(write(("upstream: someone/free", f"upstream: someone/free\n    {prices}")))

    expected = "expected the oldest price first and one a day, got 2026-06-01, 2026-01-01"
    assert faults == (f"models.yaml:15: models.free.prices: {expected}",)


def test_a_key_put_where_its_variable_is_named_is_not_repeated(write: Write):
    """The report goes to logs and screens; a provider's key must not."""
    folder = write(("OPENROUTER_API_KEY", "sk-or-v1-0123456789"))

    with pytest.raises(CatalogError) as refused:
        load_catalog(folder)

    assert "api_key_env" in str(refused.value)
    assert "sk-or" not in str(refused.value)


@pytest.mark.parametrize("indent", ["", "  ", "    ", "      "])
def test_a_key_that_stands_twice_is_a_fault_at_any_depth(write: Write, indent: str):
    """YAML lets the last one win, silently: the price that somebody reads is then not the one that counts."""
    twice = {
        "": ("schedule:\n", "schedule: {}\nschedule:\n"),
        "  ": ("  small:\n", "  small: {}\n  small:\n"),
        "    ": ("    tier: free\n", "    tier: paid\n    tier: free\n"),
        "      ": ("{ollama: small}", "{ollama: large, ollama: small}"),
    }[indent]

    (fault,) = faults_of(write(twice))

    assert fault.endswith("is there twice, expected once")


def test_missing_files_are_all_named(tmp_path: Path):
    """A wrong FLEET_CONFIG must be seen at first sight, not as `models is missing`."""
    assert faults_of(tmp_path) == (
        "models.yaml: is missing, expected a YAML file",
        "profiles.yaml: is missing, expected a YAML file",
        "schedule.yaml: is missing, expected a YAML file",
    )


def test_a_file_that_cannot_be_read_is_not_held_against_the_others(write: Write):
    """Each profile would complain of models that are there, below the one line that is wrong."""
    folder = write()
    (folder / "models.yaml").write_text("models:\n  small: {tier: local\n  free: x\n")

    (fault,) = faults_of(folder)

    assert fault.startswith("models.yaml:3: is not YAML: ")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"schedule: \xff", "schedule.yaml: expected text in UTF-8"),
        (b"a: 1\nb: \x07", "schedule.yaml:2: is not YAML: it has the character 7"),
        (b"- a\n- b\n", "schedule.yaml: expected keys with values, got a list"),
        (
            b"a: !!python/name:os.system",
            "schedule.yaml:1: is not YAML: could not determine a constructor for",
        ),
    ],
)
def test_what_is_no_catalog_is_refused_in_a_sentence(write: Write, content: bytes, fault: str):
    """A traceback from inside a YAML parser names no file and no line."""
    folder = write()
    (folder / "schedule.yaml").write_bytes(content)

    assert faults_of(folder)[0].startswith(fault)


def report_on(folder: Path) -> tuple[str, ...] | None:
    """Load a catalog that may be right: None."""
    try:
        load_catalog(folder)
    except CatalogError as error:
        return error.faults
    return None


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates()
KEYS = st.sampled_from(["models", "providers", "schedule", "profiles", "routing", "small", "tier", "prices"])
JUNK = st.recursive(
    SCALARS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(KEYS | st.integers(), inside, max_size=4),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=JUNK, name=st.sampled_from(["models.yaml", "profiles.yaml", "schedule.yaml"]))
def test_whatever_a_file_holds_the_answer_is_a_report(write: Write, junk: object, name: str):
    """An exception out of the checks themselves would hide the very fault that led there."""
    import yaml

    folder = write()
    (folder / name).write_text(yaml.safe_dump(junk))

    assert all(fault.startswith(f"{folder}/") for fault in report_on(folder) or ())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("ab:-{}[]&*!|>'\"%@?#, \n\t0.1"), max_size=40))
def test_whatever_text_a_file_holds_the_answer_is_a_report(write: Write, text: str):
    """The same for what is hardly YAML."""
    folder = write()
    (folder / "schedule.yaml").write_text(text)

    assert report_on(folder) != ()

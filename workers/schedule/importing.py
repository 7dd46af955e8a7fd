"""`fleet schedule import`: a file of cron jobs, as agents have them, becomes entries of schedule.yaml.

Such a file is a YAML list `jobs`: `name`, `cron` (six fields, seconds first) or `every`, `text`, `agent`,
`session`, `delivery`, `best_effort_deliver`, `enabled` and perhaps `model`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from config.catalog import Catalog, RecurringTask
from config.document import Document
from config.entry import NAME
from config.errors import closest_of
from workers.errors import ImportFileError

KNOWN = (
    "name",
    "cron",
    "every",
    "timezone",
    "text",
    "agent",
    "session",
    "delivery",
    "best_effort_deliver",
    "enabled",
    "model",
    "description",
)

NO_DELIVERY = (None, "", "none", False)

NO_SESSION = (None, "", "isolated", "none")


@dataclass(frozen=True)
class Imported:
    """What became of a file."""

    entries: dict[str, dict[str, Any]]
    """Entries of schedule.yaml, by name."""
    remarks: list[tuple[str, str]]
    """(job, what could not be carried over, or was changed)"""
    left_out: list[tuple[str, str]]
    """(job, why)"""


def read_jobs(file: Path, catalog: Catalog) -> Imported:
    """Read a file of cron jobs, and make entries of them.

    Raises:
        ImportFileError: it is no YAML list `jobs`.
    """
    document = Document(file)
    jobs = document.data.get("jobs") if isinstance(document.data, Mapping) else None
    if document.faults:
        raise ImportFileError(str(file), "; ".join(document.report()))
    if not isinstance(jobs, list):
        raise ImportFileError(str(file), "expected a list named jobs")
    found = Imported({}, [], [])
    for number, job in enumerate(jobs, 1):
        if not isinstance(job, Mapping):
            found.left_out.append((f"job {number}", "expected keys with values"))
            continue
        called = str(job.get("name") or f"job {number}")
        name = own_name(called)
        if name != called:
            found.remarks.append((called, f"is named {name} here"))
        why_not = add(found, name, called, job, catalog)
        if why_not:
            found.left_out.append((called, why_not))
    return found


def add(found: Imported, name: str, called: str, job: Mapping[str, Any], catalog: Catalog) -> str | None:
    """Add a job to what was found; a text: why it is left out."""
    if not re.fullmatch(NAME, name):
        return "it has no name"
    if name in found.entries:
        return f"another job is named {name}, too"
    if name in catalog.schedule:
        return f"schedule.yaml has {name} already"
    if not job.get("text"):
        return "it has no text"
    remarks: list[str] = []
    entry = entry_of(job, catalog, remarks)
    try:
        RecurringTask.model_validate({**entry, "name": name})
    except ValueError as error:
        return "; ".join(each["msg"] for each in errors_of(error))
    twin = next((other for other, its in found.entries.items() if asks(its) == asks(entry)), None)
    if twin:
        remarks.append(f"asks the same as {twin}; disable one of them, unless you mean it")
    found.entries[name] = entry
    found.remarks.extend((called, remark) for remark in remarks)
    return None


def entry_of(job: Mapping[str, Any], catalog: Catalog, remarks: list[str]) -> dict[str, Any]:
    """Write a job as an entry of schedule.yaml; what has no place there goes to the remarks."""
    agent = str(job["agent"]) if job.get("agent") else None
    entry: dict[str, Any] = {
        **({"description": str(job["description"])} if job.get("description") else {}),
        **rhythm(job, remarks),
        **persona(agent, catalog, remarks),
        **({"model": model} if (model := model_of(job.get("model"), catalog, remarks)) else {}),
        "prompt": str(job["text"]),
        **({"agent": agent} if agent else {}),
        **target(job.get("delivery"), remarks),
        **({} if job.get("enabled", True) else {"enabled": False}),
    }
    if job.get("session") not in NO_SESSION:
        remarks.append(f"session {job['session']!r}: a run knows nothing of earlier ones")
    if "deliver" in entry and job.get("best_effort_deliver") is False:
        remarks.append(
            "best_effort_deliver: false: a run whose answer cannot be delivered has succeeded here"
        )
    remarks.extend(f"the key {key} means nothing here" for key in job if key not in KNOWN)
    return entry


def rhythm(job: Mapping[str, Any], remarks: list[str]) -> dict[str, Any]:
    """Give `every` or `cron`; of six fields the first are seconds, which are not kept."""
    found: dict[str, Any] = {}
    if job.get("every"):
        found["every"] = str(job["every"])
    if job.get("cron"):
        fields = str(job["cron"]).split()
        if len(fields) == 6:
            if fields[0] != "0":
                remarks.append(f"second {fields[0]!r} becomes 0: runs begin with the minute")
            fields = fields[1:]
        found["cron"] = " ".join("*" if field == "?" else field for field in fields)
        if job.get("timezone"):
            found["timezone"] = str(job["timezone"])
    return found


def persona(agent: str | None, catalog: Catalog, remarks: list[str]) -> dict[str, str]:
    """Map an agent to the focus and the profile of its name."""
    name = own_name(agent or "")
    found = {
        **({"profile": name} if name in catalog.profiles else {}),
        **({"focus": name} if name in catalog.focuses else {}),
    }
    if agent and not found:
        meant = closest_of(name, [*catalog.focuses, *catalog.profiles])
        hint = f"; did you mean {meant}?" if meant else ""
        remarks.append(
            f"agent {agent!r} is neither a focus nor a profile{hint}, so the routing's models are asked"
        )
    return found


def model_of(named: object, catalog: Catalog, remarks: list[str]) -> str | None:
    """Find a model by its name here, or by its provider's name of it."""
    if not named:
        return None
    text = str(named)
    for model in catalog.models.values():
        if text == model.name or text.partition("/")[2] == model.name:
            return model.name
        if model.upstream and (text == model.upstream or text.endswith(f"/{model.upstream}")):
            return model.name
    meant = closest_of(text, list(catalog.models))
    remarks.append(f"model {text!r} is not in models.yaml" + (f"; did you mean {meant}?" if meant else ""))
    return None


def target(delivery: object, remarks: list[str]) -> dict[str, Any]:
    """Map a delivery; only an address of the web means the same here."""
    if delivery in NO_DELIVERY:
        return {}
    if isinstance(delivery, str) and delivery.startswith(("http://", "https://")):
        return {"deliver": {"webhook": delivery}}
    remarks.append(f"delivery {delivery!r}: the answer stays in the ledger; see `deliver` for a target")
    return {}


def own_name(name: str) -> str:
    """Write a name as names are here: lower-case letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def asks(entry: Mapping[str, Any]) -> Sequence[object]:
    return [entry.get(key) for key in ("profile", "focus", "model", "prompt")]


def errors_of(error: ValueError) -> Iterator[Mapping[str, Any]]:
    for each in getattr(error, "errors", list)():
        where = ".".join(map(str, each["loc"]))
        yield {"msg": f"{where}: {each['msg']}" if where else each["msg"]}


def as_yaml(found: Imported) -> str:
    """Write the entries as they stand in schedule.yaml, below `schedule:`."""
    text = yaml.safe_dump(found.entries, sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"  {line}\n" if line else "\n" for line in text.splitlines()) if found.entries else ""

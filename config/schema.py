"""JSON Schema for editors, made from the types: `python -m config.schema` writes config/schemas/."""

import json
from pathlib import Path

from config.entry import Entry
from config.models import ModelsFile
from config.profiles import ProfilesFile
from config.schedule import ScheduleFile

SCHEMAS = Path(__file__).parent / "schemas"

FILES: dict[str, type[Entry]] = {
    "models.schema.json": ModelsFile,
    "profiles.schema.json": ProfilesFile,
    "schedule.schema.json": ScheduleFile,
}


def schema_text(file: type[Entry]) -> str:
    """Write the schema of a file as it is committed."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **file.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def write_schemas(folder: Path = SCHEMAS) -> None:
    folder.mkdir(exist_ok=True)
    for name, file in FILES.items():
        (folder / name).write_text(schema_text(file), encoding="utf-8")


if __name__ == "__main__":
    write_schemas()

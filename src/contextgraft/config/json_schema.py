"""JSON schema of a study's configuration: `python -m contextgraft.config.json_schema [FILE]` writes it."""

import json
import sys
from pathlib import Path

from contextgraft.config.study import StudyConfig

DEFAULT = Path("config/schema.json")


def schema_text() -> str:
    """The text of config/schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **StudyConfig.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def main(arguments: list[str]) -> None:
    """Write the schema to the file named first, or to config/schema.json."""
    target = Path(arguments[0]) if arguments else DEFAULT
    target.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

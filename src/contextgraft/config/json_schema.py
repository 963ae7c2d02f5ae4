"""JSON schema of a study's configuration: `python -m contextgraft.config.json_schema [FILE]` writes it."""

import argparse
import json
from pathlib import Path

from contextgraft.config.study import StudyConfig

DEFAULT = Path("config/schema.json")


def schema_text() -> str:
    """The text of config/schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **StudyConfig.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write the schema to the file that the command line names."""
    parser = argparse.ArgumentParser(description="Write the JSON schema of a study's configuration.")
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT, help="default: %(default)s")
    parser.parse_args().file.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()

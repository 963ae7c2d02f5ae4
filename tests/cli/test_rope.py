"""`contextgraft rope` prints the published integers."""

import json

from click.testing import CliRunner

from contextgraft.cli.commands.rope import command

WORDS = ["--theta", "500000", "--context", "8192", "--head-dim", "128"]


def test_table_and_json() -> None:
    targets = ["--to", "65536", "--to", "262144", "--to", "524288"]
    result = CliRunner().invoke(command, [*WORDS, *targets])
    assert [line.split()[1] for line in result.stdout.splitlines()[1:]] == [
        "15296098",
        "207112184",
        "1062356830",
    ]
    rows = json.loads(CliRunner().invoke(command, [*WORDS, *targets, "--json"]).stdout)
    assert rows[1] == {"context": 262144, "theta": 207112184}


def test_the_absolute_rule() -> None:
    result = CliRunner().invoke(command, [*WORDS, "--to", "1048576", "--rule", "absolute", "--json"])
    assert json.loads(result.stdout) == [{"context": 1048576, "theta": 3580165449}]

"""Files that are wrong somewhere: bytes and words changed at random, or one value replaced by an odd one."""

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

WORD = re.compile(rb'-?\d+(?:\.\d+)?|"[^"]*"|[^\s\w]|\w+|\s')
TOKENS = (
    b"-1",
    b"0",
    b"1e9",
    b"1000000000",
    b"null",
    b"[]",
    b"{}",
    b"NaN",
    b"true",
    b'""',
    b'"\\ud800"',
    b"\xff",
    b"\0",
    b"18446744073709551616",
    b",",
    b":",
    b'"',
    b"\n",
    b"{{",
    b"}}",
    b"{%",
    b"&a",
    b"*a",
    b"!!python/object:x",
    b"\x1b[2J",
    b"$(touch X)",
    b"..",
)
ODD: tuple[Any, ...] = (
    -1,
    0,
    1,
    2,
    7,
    10**3,
    10**6,
    10**9,
    2**31,
    2**63,
    10**30,
    0.5,
    -0.0,
    1e9,
    1e300,
    True,
    False,
    None,
    "",
    "x",
    "7",
    "\x1b[2J",
    "a\nb",
    "../..",
    "/dev/zero",
    "~",
    "{{ x }}",
    "é" * 300,
    [],
    [0],
    [None],
    ["x", "x"],
    {},
    {"a": 1},
    [[[[]]]],
    "torch.float33",
    "<unk>",
    [10**9] * 3,
)


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """A file with one to three words, bytes or lines replaced, removed, doubled or cut."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 3)):
        words = [match.span() for match in WORD.finditer(bytes(data[:20_000]))]
        begin, end = (
            chance.choice(words)
            if words and chance.random() < 0.7
            else (chance.randrange(len(data) + 1),) * 2
        )
        what = chance.randrange(6)
        if what == 0:
            del data[begin : max(end, begin + 1)]
        elif what == 1:
            data[begin:begin] = data[begin : begin + chance.randint(1, 200)]
        elif what == 2 and chance.random() < 0.3:
            del data[begin:]
        elif what == 3:
            data[begin:end] = chance.randbytes(chance.randint(1, 8))
        else:
            data[begin:end] = chance.choice(TOKENS)
    return bytes(data)


def constructed_json(raw: bytes, chance: random.Random) -> bytes:
    """JSON with one or two values replaced by odd ones, removed, or put in somewhere else."""
    return json.dumps(_odd_values(json.loads(raw), chance)).encode()


def constructed_yaml(raw: bytes, chance: random.Random) -> bytes:
    """The same of YAML."""
    return yaml.safe_dump(_odd_values(yaml.safe_load(raw), chance)).encode()


def _odd_values(value: Any, chance: random.Random) -> Any:
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 2)):
        containers = list(_containers(value))
        if not containers:
            return value
        container = chance.choice(containers)
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        key = chance.choice(keys)
        what = chance.randrange(6)
        if what == 0:
            del container[key]
        elif what == 1 and isinstance(container, dict):
            container[str(chance.choice(ODD))] = container.pop(key)
        elif what == 2:
            container[key] = copy.deepcopy(chance.choice(list(_containers(value))))
        else:
            container[key] = chance.choice(ODD)
    return value


def _containers(value: Any) -> Iterator[Any]:
    """Every object and list that is not empty."""
    if isinstance(value, dict | list) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


PIECES = (
    "{{ messages[0]['content'] }}",
    "{{ messages }}",
    "{{ x.y.z }}",
    "{{ bos_token }}",
    "hello",
    "{{ 1/0 }}",
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% for i in range(10**9) %}{{ i }}{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ range(10**10)|list }}",
    "{% set ns = namespace(a='x') %}",
    "{% endif %}",
    "{% if true %}",
    "{% for i in range(999999) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
    "{{ raise_exception('no') }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__.os.system('touch X') }}",
    "{{ 9**9**9 }}",
    "{{ messages[7]['content'] }}",
    "{{ messages|tojson }}",
    "{{ strftime_now('%Y' * 1000) }}",
    "{% include 'x' %}",
    "{{ messages[0]['content']|upper }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ '%d' % 'x' }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ lipsum(n=10**6) }}",
    "{{ 'a'.center(10**10) }}",
    "{{ '%10000000000d' % 1 }}",
)


def constructed_template(_: bytes, chance: random.Random) -> bytes:
    """A chat template of one to four pieces, few of which are right."""
    return " ".join(chance.choices(PIECES, k=chance.randint(1, 4))).encode()


Make = Callable[[bytes, random.Random], bytes]

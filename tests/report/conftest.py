"""Synthetic samples: no model answered them. Scores follow a pattern that can be counted by hand."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.formats.samples import SCHEMA

VERSIONS = {"contextgraft": "0.1.0", "transformers": "5.23.0", "torch": "2.13.0", "lm_eval": "0.4.13"}
LENGTHS = (128, 1024)
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)


@dataclass(frozen=True)
class Model:
    """A model that never was: its name, and its graft columns if it is a graft."""

    name: str
    graft: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        return f"digest-{self.name}"


def graft(target: str, rank: int, donor: str = "donor-s1", scale: float = 1.0) -> Model:
    """A graft, or with scale 0 the theta-only control, whose digest does not depend on the donor."""
    origin = f"{target}-theta" if scale == 0 else f"{target}-r{rank}-x{scale:g}-{donor}"
    columns = {
        "target_name": target,
        "target_digest": f"digest-{target}",
        "base_digest": "digest-base",
        "donor_digest": f"digest-{donor}",
        "donor_name": donor,
        "adapter_digest": f"digest-adapter-{donor}-r{rank}",
        "rank": rank,
        "scale": scale,
    }
    return Model(origin, columns)


def sample(model: Model, suite: str, index: int, right: bool, /, **changes: Any) -> dict[str, Any]:
    """One row; `changes` overwrite columns."""
    nothing = dict.fromkeys(SCHEMA.names)
    return {
        **nothing,
        "model": model.name,
        "model_digest": model.digest,
        "suite": suite,
        "prompt_tokens": 40,
        "seed": 7,
        "sample_index": index,
        "scoring": "exact",
        "recipe": json.dumps({"index": index, "suite": suite}),
        "answer": "17 42 thank you",
        "output": "17 42 thank you" if right else "05 <b>63</b> thank you",
        "score": float(right),
        "status": "ok",
        **VERSIONS,
        **(model.graft or {}),
        **changes,
    }


def needle(
    model: Model, task: str, length: int, hits: int, /, each: int = 20, **changes: Any
) -> Iterator[dict[str, Any]]:
    """`each` prompts a depth, of which the first `hits` of all are right, counted depth by depth in turn."""
    for index in range(each):
        for position, depth in enumerate(DEPTHS):
            right = index * len(DEPTHS) + position < hits
            columns = {
                "task": task,
                "length": length,
                "depth": depth,
                "distractors": 3,
                "kind": "single",
                "prompt_tokens": length - 4,
            }
            yield sample(model, "needle", index, right, **{**columns, **changes})


def skill(model: Model, task: str, hits: int, /, n: int = 200, **changes: Any) -> Iterator[dict[str, Any]]:
    """`n` prompts of a skill, the first `hits` right."""
    for index in range(n):
        yield sample(model, "skill", index, index < hits, task=task, **changes)


def windows(model: Model, nats: float, /, documents: int = 4, **changes: Any) -> Iterator[dict[str, Any]]:
    """Perplexity of windows of 1,024 tokens: `nats` within 128, a nat more for each doubling beyond."""
    for document in range(documents):
        for step, position in enumerate((128, 256, 512, 1024)):
            columns = {"task": "moby", "length": 1024, "position": position, "tokens": position // 2}
            columns |= {"document": document, "scoring": "nll", "score": nats + step + document / 10}
            yield sample(model, "perplexity", document, True, **{**columns, **changes})


def compared(model: Model, kl: float, /, n: int = 10, **changes: Any) -> Iterator[dict[str, Any]]:
    """Divergence on `n` prompts of 128 tokens."""
    for index in range(n):
        columns = {"task": "moby", "length": 128, "tokens": 127, "document": index, "scoring": "kl"}
        columns |= {"score": kl * (1 + index / 10), "agreement": 1 - kl / 2}
        columns |= {"reference_digest": (model.graft or {}).get("target_digest", model.digest)}
        yield sample(model, "divergence", index, True, **{**columns, **changes})


def unscored(rows: Iterator[dict[str, Any]], status: str, reason: str) -> list[dict[str, Any]]:
    """The same samples without a score."""
    return [{**row, "score": None, "status": status, "reason": reason, "output": None} for row in rows]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


GRAFTS = {  # hits of 100 at 1,024 tokens, hits of 200 of the skill, by rank: one fine-tune for each outcome
    "style": {1: (31, 198), 2: (70, 198), 4: (92, 199), 8: (97, 198), 16: (99, 199)},
    "sure": {1: (2, 199), 2: (8, 198), 4: (30, 197), 8: (61, 196), 16: (84, 196)},
    "facts": {1: (80, 196), 2: (90, 193), 4: (96, 188), 8: (97, 186), 16: (97, 184)},
}
THETA = {"style": 44, "sure": 5, "facts": 70}


def write_study(folder: Path) -> Path:
    """Base, two donors, three fine-tunes: context and skill, no context, context without skill."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in study_files().items():
        (folder / name).write_bytes(data)
    return folder


@cache
def study_files() -> dict[str, bytes]:
    """The files of that study by name; they are made once."""
    with TemporaryDirectory() as folder:
        make_study(Path(folder))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def make_study(folder: Path) -> None:
    """Write the samples of that study."""
    base, donors = Model("base"), [Model("donor-s1"), Model("donor-s2")]
    rows = [*needle(base, "needle_base", 128, 99), *needle(base, "needle_base", 1024, 1)]
    for index, donor in enumerate(donors):
        rows += [*needle(donor, "needle_base", 128, 100), *needle(donor, "needle_base", 1024, 100 - index)]
    write(folder / "base.parquet", rows)
    for name, ranks in GRAFTS.items():
        write(folder / f"{name}.parquet", _fine_tune(name, ranks))


def others(model: Model, hits: int) -> Iterator[dict[str, Any]]:
    """Another kind of needle, partly right; another haystack; two of RULER's tasks."""
    columns: dict[str, Any] = {"depth": None, "scoring": "recall", "kind": "multi_value"}
    for row in needle(model, "several", 1024, hits, each=4, answer='["17", "42"]', **columns):
        yield {**row, "score": row["score"] / 2}
    yield from needle(model, "plain", 1024, hits, each=4, haystack="noise")
    for task in ("niah_single_1", "vt"):
        columns = {"task": task, "length": 1024, "scoring": "recall"}
        for index in range(20):
            yield sample(model, "ruler", index, index < hits, **columns)


def _fine_tune(name: str, ranks: Mapping[int, tuple[int, int]]) -> list[dict[str, Any]]:
    task = f"needle_{name}"
    rows = [
        *needle(Model(name), task, 128, 99),
        *needle(Model(name), task, 1024, 0),
        *skill(Model(name), name, 198),
        *windows(Model(name), 2.0),
        *compared(Model(name), 0.0),
        *others(Model(name), 0),
    ]
    for index, donor in enumerate(("donor-s1", "donor-s2")):
        theta = graft(name, 1, donor, scale=0.0)
        rows += [
            *needle(theta, task, 128, 98),
            *needle(theta, task, 1024, THETA[name]),
            *skill(theta, name, 197),
            *windows(theta, 1.5),
            *compared(theta, 0.1),
            *others(theta, 10),
        ]
        for rank, (hits, kept) in ranks.items():
            model = graft(name, rank, donor)
            rows += [
                *needle(model, task, 128, 99),
                *needle(model, task, 1024, hits - index),
                *skill(model, name, kept),
                *windows(model, 1.0),
                *compared(model, 0.02 * rank),
                *others(model, hits // 5),
            ]
    return rows


def write_sidecar(folder: Path, rank: int, donor: str = "donor-s1", energy: float | None = None) -> Path:
    """An adapter's sidecar with made-up energies that grow with the rank."""
    share = energy if energy is not None else rank / (rank + 6)
    modules = {
        f"model.layers.{layer}.{part}": {
            "energy": min(1.0, share * boost),
            "error": 0.1,
            "delta_norm": 2.0,
            "relative_delta": 0.06,
        }
        for layer in range(2)
        for part, boost in (
            ("self_attn.q_proj", 1.2),
            ("self_attn.k_proj", 1.3),
            ("self_attn.v_proj", 0.9),
            ("self_attn.o_proj", 0.95),
            ("mlp.gate_proj", 0.8),
            ("mlp.up_proj", 0.78),
            ("mlp.down_proj", 0.85),
        )
    }
    sidecar = {
        "kind": "adapter",
        "format": 1,
        "contextgraft": "0.1.0",
        "base": {"name": "base", "digest": "digest-base"},
        "donor": {"name": donor, "digest": f"digest-{donor}"},
        "rank": rank,
        "rope": {
            "base": {"theta": 10000.0, "max_positions": 128},
            "donor": {"theta": 192000.0, "max_positions": 1024},
        },
        "max_length": 1024,
        "modules": modules,
        "energy": share,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contextgraft.json").write_text(json.dumps(sidecar))
    return folder


@pytest.fixture(scope="session")
def synthetic() -> SimpleNamespace:
    """The generator's functions, for tests that make samples of their own."""
    return SimpleNamespace(
        Model=Model,
        graft=graft,
        needle=needle,
        skill=skill,
        unscored=unscored,
        write=write,
        write_study=write_study,
        windows=windows,
        compared=compared,
        write_sidecar=write_sidecar,
        grafts=GRAFTS,
        schema=SCHEMA,
    )


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic samples."""
    return write_study(tmp_path_factory.mktemp("study") / "samples")


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic adapters: five ranks of two donors."""
    folder = tmp_path_factory.mktemp("adapters")
    for donor in ("donor-s1", "donor-s2"):
        for rank in (1, 2, 4, 8, 16):
            write_sidecar(folder / donor / f"r{rank}", rank, donor)
    return folder

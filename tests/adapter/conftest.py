"""A base, a donor and a target on disk, and adapters between them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec

RANKS = (2, 4, 8)


@dataclass(frozen=True)
class World:
    """Folders of one toy world, and its weights."""

    base: Path
    donor: Path
    target: Path
    adapters: Path
    weights: dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="session")
def build(toy: SimpleNamespace) -> Callable[..., World]:
    """Make a world in a folder; the donor has theta 4e4 and 1024 positions, the target more tokens."""

    def make(root: Path, dtype: torch.dtype = torch.bfloat16, shards: int = 1, **changes: object) -> World:
        config = toy.config(**changes)
        base = toy.weights(config, dtype=dtype)
        donor, target = toy.moved(base, 1), toy.moved(base, 2, 0.005)
        rows = torch.randn(6, config["hidden_size"], generator=torch.Generator().manual_seed(9))
        embeddings = torch.cat([target["model.embed_tokens.weight"], rows.to(dtype)])
        target["model.embed_tokens.weight"] = embeddings
        longer = {**config, "rope_theta": 4e4, "max_position_embeddings": 1024}
        return World(
            toy.write(root / "base", base, config, shards),
            toy.write(root / "donor", donor, longer),
            toy.write(root / "target", target, {**config, "vocab_size": len(embeddings)}, shards),
            root / "adapters",
            {"base": base, "donor": donor, "target": target},
        )

    return make


@pytest.fixture(scope="session")
def world(build: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world in bfloat16 with its adapters extracted; not to be written to."""
    made = build(tmp_path_factory.mktemp("world"), shards=3)
    extract(open_pair(made.base, made.donor), [RankSpec(rank) for rank in RANKS], made.adapters)
    return made

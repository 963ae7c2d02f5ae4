"""Whether a model of transformers keeps packed documents apart, which not every architecture does."""

from typing import Any

import torch

from contextgraft.errors import InputError
from contextgraft.training.model import base_model_name

TOLERANCE = 1e-4  # of the largest hidden value: rounding, far below the effect of another document


def check_block_causal(causal_lm: torch.nn.Module) -> None:
    """Raise InputError if tokens of one document change the hidden states of another one.

    Two documents of two tokens each are computed twice, with another first document. Layers without
    attention, for example, pass their state on.
    """
    layers: Any = getattr(causal_lm, base_model_name(causal_lm))
    ids, position_ids = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3]]), torch.tensor([[0, 1, 0, 1]]).expand(2, -1)
    with torch.no_grad():
        first, second = layers(input_ids=ids, position_ids=position_ids, use_cache=False)[0][:, 2:].float()
    if (first - second).abs().max() > TOLERANCE * first.abs().max():
        raise InputError(
            "mask block_causal is not supported for this architecture: its documents see each other",
            received=type(causal_lm).__name__,
            remedy="remove mask from the recipe",
        )

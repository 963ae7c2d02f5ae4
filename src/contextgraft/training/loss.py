"""The loss: cross-entropy of the next token, each token weighed; few logits exist at a time.

The logits of a long sequence are many times its hidden states (vocabulary / hidden size). So a piece of them
is computed, its gradient taken at once, and let go (as Hsu et al. 2024, Liger Kernel, arXiv 2410.10989).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers.modeling_outputs import MoeModelOutputWithPast

from contextgraft.training.micro_batch import Part, tokens_at_once


class Learner(torch.nn.Module):
    """A causal language model of transformers with its loss.

    Logits come from the model's own forward pass, in which hidden states stand in the place of the layers: so
    whatever an architecture does to its logits (scales, soft caps) is done.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.prefix = str(model.base_model_prefix)
        self.at_once = tokens_at_once(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
        self.head = copy.copy(model)
        self.head._modules = {**model._modules, self.prefix: _Given()}

    def forward(self, part: Part, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The part's summand of the batch's mean, in nats; how many of its answers are right.

        `options` are handed to the layers.
        """
        hidden_BLD = getattr(self.model, self.prefix)(input_ids=part.ids, use_cache=False, **options)[0]
        learning = [parameter for parameter in self.head.parameters() if parameter.requires_grad]
        return _Summand.apply(self.head, self.at_once, part, hidden_BLD, *learning)  # type: ignore[no-untyped-call, no-any-return]


class _Given(torch.nn.Module):
    """Stands for the layers of a model: their result, in all the fields that heads read, is given."""

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)


class _Summand(torch.autograd.Function):
    """Differentiates while it sums; upstream's gradient is a factor. Sums of pieces are float32 or wider."""

    @staticmethod
    def forward(
        ctx: Any,
        head: torch.nn.Module,
        at_once: int,
        part: Part,
        hidden_BLD: torch.Tensor,
        *learning: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_ND = hidden_BLD.flatten(0, 1)
        targets_N, weights_N, answers_N = (field.flatten() for field in part[1:4])
        summand, right = weights_N.new_zeros((), dtype=_wide(hidden_ND)), targets_N.new_zeros(())
        gradient_ND = torch.zeros_like(hidden_ND)
        gradients: list[torch.Tensor | None] = [None] * len(learning)
        for piece in _pieces(len(targets_N), at_once):
            matters = weights_N[piece] > 0
            if not matters.any():
                continue
            with torch.enable_grad():
                given = hidden_ND[piece].detach().requires_grad_()
                logits_NV = head(inputs_embeds=given[None], use_cache=False).logits[0][matters]
                logits_NV = logits_NV.to(_wide(logits_NV))
                chosen = targets_N[piece][matters]
                losses_N = torch.nn.functional.cross_entropy(logits_NV, chosen, reduction="none")
                loss = (losses_N * weights_N[piece][matters]).sum() / part.total
                gradient_ND[piece], *found = torch.autograd.grad(loss, [given, *learning])
            gradients = [_added(*pair) for pair in zip(gradients, found, strict=True)]
            summand += loss.detach()
            right += (logits_NV.argmax(-1) == chosen)[answers_N[piece][matters]].sum()
        ctx.mark_non_differentiable(right)
        ctx.gradients = [
            gradient_ND.view_as(hidden_BLD),
            *(
                torch.zeros_like(parameter) if gradient is None else gradient.to(parameter.dtype)
                for gradient, parameter in zip(gradients, learning, strict=True)
            ),
        ]
        return summand, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, []  # which the layers' turn need not find in memory
        return None, None, None, *(gradient.mul_(upstream) for gradient in gradients)


def _pieces(tokens: int, size: int) -> Sequence[slice]:
    return [slice(start, start + size) for start in range(0, tokens, size)]


def _added(before: torch.Tensor | None, gradient: torch.Tensor) -> torch.Tensor:
    return gradient if before is None else before.to(_wide(before)).add_(gradient)


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)

"""Weighted cross-entropy of the next token, computed in chunks of tokens.

The logits of a long sequence are many times larger than its hidden states (vocabulary / hidden size). So the
logits of one chunk are computed, differentiated at once and freed (Hsu et al. 2024, Liger Kernel,
arXiv 2410.10989). Tokens without a weight, such as a user's part of a chat, have no logits.
"""

import copy
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers.modeling_outputs import MoeModelOutputWithPast

from contextgraft.training.activations.selective_checkpointing import keep_on_device
from contextgraft.training.logit_chunks import logit_chunk_tokens
from contextgraft.training.micro_batch import MicroBatch
from contextgraft.training.model import base_model_name


class CausalLMWithLoss(torch.nn.Module):
    """A causal language model of transformers together with its loss.

    Logits come from the model's own forward pass, with its layers replaced by a stub that returns given
    hidden states. So whatever an architecture does to its logits (scaling, soft capping) is done here too.
    """

    def __init__(self, causal_lm: torch.nn.Module) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.layers_name = base_model_name(causal_lm)
        self.chunk_tokens = logit_chunk_tokens(causal_lm.config.vocab_size)  # type: ignore[union-attr, arg-type]
        self.head = copy.copy(causal_lm)
        self.head._modules = {
            **causal_lm._modules,
            self.layers_name: _HiddenStatesStub(getattr(causal_lm, self.layers_name)),
        }

    def forward(self, batch: MicroBatch, **layer_arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss in nats (weighted sum of this micro-batch / total weight), and the number of correct answers.

        `layer_arguments` are passed to the layers.
        """
        layers = getattr(self.causal_lm, self.layers_name)
        hidden_BLD = layers(input_ids=batch.ids, use_cache=False, **layer_arguments)[0]
        trainable = [parameter for parameter in self.head.parameters() if parameter.requires_grad]
        return _ChunkedLoss.apply(self.head, self.chunk_tokens, batch, hidden_BLD, *trainable)  # type: ignore[no-untyped-call, no-any-return]


class _HiddenStatesStub(torch.nn.Module):
    """Replaces the layers of a model: returns the given hidden states in the output type that heads read.

    It has the plain attributes of the layers: the head of Falcon-H1 reads one.
    """

    def __init__(self, layers: torch.nn.Module) -> None:
        super().__init__()
        plain = {key: value for key, value in vars(layers).items() if isinstance(value, float | int)}
        self.__dict__.update({key: value for key, value in plain.items() if not key.startswith("_")})

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)


class _ChunkedLoss(torch.autograd.Function):
    """Computes the gradients during the forward pass; sums over chunks are float32 or wider.

    The backward pass only multiplies them by the upstream gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        head: torch.nn.Module,
        chunk_tokens: int,
        batch: MicroBatch,
        hidden_BLD: torch.Tensor,
        *trainable: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_ND = hidden_BLD.flatten(0, 1)
        targets_N, weights_N, answers_N = (field.flatten() for field in batch[1:4])
        loss = weights_N.new_zeros((), dtype=_at_least_float32(hidden_ND))
        correct = targets_N.new_zeros(())
        hidden_grad_ND = torch.zeros_like(hidden_ND)
        grads: list[torch.Tensor | None] = [None] * len(trainable)
        weighted = weights_N.nonzero()[:, 0]
        for chunk in torch.split(weighted, chunk_tokens) if len(weighted) else ():
            with torch.enable_grad(), keep_on_device():
                hidden = hidden_ND[chunk].detach().requires_grad_()
                logits_NV = head(inputs_embeds=hidden[None], use_cache=False).logits[0]
                logits_NV = logits_NV.to(_at_least_float32(logits_NV))
                targets = targets_N[chunk]
                losses_N = torch.nn.functional.cross_entropy(logits_NV, targets, reduction="none")
                chunk_loss = (losses_N * weights_N[chunk]).sum() / batch.total_weight
                hidden_grad_ND[chunk], *chunk_grads = torch.autograd.grad(chunk_loss, [hidden, *trainable])
            grads = [
                grad if total is None else total.to(_at_least_float32(total)).add_(grad)
                for total, grad in zip(grads, chunk_grads, strict=True)
            ]
            loss += chunk_loss.detach()
            correct += (logits_NV.argmax(-1) == targets)[answers_N[chunk]].sum()
        ctx.mark_non_differentiable(correct)
        ctx.grads = [
            hidden_grad_ND.view_as(hidden_BLD),
            *(
                torch.zeros_like(parameter) if grad is None else grad.to(parameter.dtype)
                for grad, parameter in zip(grads, trainable, strict=True)
            ),
        ]
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, []  # freed before the layers' backward pass
        return None, None, None, *(grad.mul_(upstream) for grad in grads)


def _at_least_float32(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)

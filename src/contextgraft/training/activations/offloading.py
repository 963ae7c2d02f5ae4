"""Layer inputs in host memory, from the forward pass of a layer until it is recomputed."""

from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from contextgraft.config.training import Recipe


def offloading(recipe: Recipe) -> saved_tensors_hooks | None:
    """Hooks that keep saved tensors in host memory, pinned for GPUs; None if the recipe does not want that.

    Entered around the forward pass, they take what activation checkpointing keeps: the inputs of the layers.
    Tensors inside a layer are recomputed and not offloaded.
    """
    return save_on_cpu(pin_memory=True) if recipe.activation_offloading else None

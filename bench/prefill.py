"""Memory and CPU time of a prefill in chunks, with transformers' `sdpa` attention and by blocks.

`python bench/prefill.py 8192 32768 65536` reads a random prompt of each length with a random model of two
layers (8 query heads of size 16, one head of keys and values, float32), each in a process of its own, as the
`hf` backend does: 2,048 tokens at a time. *Above weights* is the peak resident memory less that of a process
that loads the model and reads one chunk.
"""

import sys
from argparse import ArgumentParser

import torch
from measure import Cost, run
from transformers import LlamaConfig, LlamaForCausalLM

from contextgraft.attention.chunks import use_block_attention
from contextgraft.evaluation.backends.generation import prefill

CHUNK = 2048  # the default of --prefill-chunk
VOCABULARY = 256
SHAPE = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=1,
    max_position_embeddings=1 << 20,
)
CACHE_BYTES = SHAPE.num_hidden_layers * 2 * SHAPE.num_key_value_heads * SHAPE.head_dim * 4  # of a token
CHANGES = {"sdpa": lambda _: None, "blocks": use_block_attention}


@torch.inference_mode()
def read_prompt(attention: str, length: int) -> None:
    """Read a random prompt of a length in chunks."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(SHAPE).eval()
    CHANGES[attention](model)
    prefill(model, None, torch.randint(VOCABULARY, (1, length)), begin=0, chunk=CHUNK)


def measured(attention: str, length: int) -> Cost:
    """The cost of a process that reads one prompt."""
    return run([sys.executable, __file__, "--attention", attention, length])


def main() -> None:
    """Print a table, a row for each length and attention."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("lengths", type=int, nargs="+")
    parser.add_argument(
        "--attention", choices=CHANGES, help="read the prompts in this process, print nothing"
    )
    options = parser.parse_args()
    if options.attention:
        for length in options.lengths:
            read_prompt(options.attention, length)
        return
    least = {name: measured(name, CHUNK).resident for name in CHANGES}
    print("| tokens | attention | cache MB | above weights MB | CPU s | others, cores |\n" + "|---" * 6 + "|")
    for length in options.lengths:
        for name in CHANGES:
            cost = measured(name, length)
            above, cache = cost.resident - least[name], length * CACHE_BYTES / 2**20
            print(
                f"| {length:,} | {name} | {cache:.0f} | {above:.0f} | {cost.cpu:.1f} | {cost.others:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

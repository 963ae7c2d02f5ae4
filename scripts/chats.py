"""Write conversations that a model answers itself, as training data of `kind: chat`.

A donor that is trained on them as well keeps its base's way to answer: self-distillation (Yang et al. 2024,
arXiv 2402.13669).

Usage: python scripts/chats.py MODEL PROMPTS.txt OUT.jsonl [--tokens 96] [--seed 1]

One prompt on each line. An answer that does not end within the tokens is left out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 32
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.9}


def main() -> None:
    """Answer every prompt and write the conversations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    prompts = options.prompts.read_text(encoding="utf-8").splitlines()
    with options.out.open("w", encoding="utf-8") as file:
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            for prompt, answer in zip(batch, _answers(model, tokenizer, batch, options.tokens), strict=True):
                if answer is not None:
                    messages = [
                        {"role": "user", "content": prompt},
                        {"role": "assistant", "content": answer},
                    ]
                    file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def _answers(model: Any, tokenizer: Any, prompts: list[str], tokens: int) -> list[str | None]:
    """The answer to each prompt; None for one without an end."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=tokens, pad_token_id=tokenizer.pad_token_id, **SAMPLING)
    answers = ids[:, inputs["input_ids"].shape[1] :].tolist()
    end = tokenizer.eos_token_id
    return [
        tokenizer.decode(answer[: answer.index(end)]).strip() if end in answer else None for answer in answers
    ]


if __name__ == "__main__":
    main()

"""What `extract`, `merge` and `fetch` refuse, and why: the last list of docs/models.md."""

from pathlib import Path
from typing import NamedTuple

from contextgraft.adapter.gguf.llama_cpp import NO_ADAPTER

TESTS = Path(__file__).parents[2]


class Refusal(NamedTuple):
    """Inputs that are refused, the reason, what to do instead, and the test that proves it."""

    what: str
    why: str
    instead: str
    test: str  # FILE::FUNCTION below tests/

    @property
    def exists(self) -> bool:
        """Whether the test is there."""
        file, function = self.test.split("::")
        return f"def {function}(" in (TESTS / file).read_text()


REFUSALS = (
    Refusal(
        "a target whose language model is of another class than the adapter's (Gemma 2 for Gemma 3, "
        "Qwen3-MoE for Qwen3-VL-MoE, Mllama's for Llama)",
        "the two classes compute different logits from the same weights",
        "a target of the adapter's class, alone or within a multimodal model",
        "parity/test_text_and_vision.py::test_language_models_that_compute_something_else",
    ),
    Refusal(
        "a donor's setting that the target's class does not read: a wider `sliding_window` for a Qwen2 "
        "target with `use_sliding_window` off",
        "the graft would attend otherwise than the donor, without a word",
        "`--rope-from DONOR` takes all of the donor's settings; `--keep-rope` none",
        "adapter/test_kept_settings.py::"
        "test_a_wider_window_for_a_target_without_windows_is_refused_with_a_remedy",
    ),
    Refusal(
        "a window below 1, or none for layers that slide",
        "transformers reads such a config and fails at the first token",
        "correct the donor's config.json",
        "rope/test_travelling.py::test_a_window_without_masks_is_refused",
    ),
    Refusal(
        "RoPE parameters from which no frequencies can be computed, such as a linear factor below 1",
        "transformers fails, or rotates by other frequencies than are meant",
        "correct the donor's config.json",
        "rope/test_parameters.py::test_what_cannot_be_computed_with_is_refused",
    ),
    Refusal(
        "one theta for all layers, for a class with one for each type of layer (Gemma 3)",
        "the config of the class has no place for it",
        "`--rope-from` a model of the target's class, or `--keep-rope`",
        "rope/test_class_defaults.py::test_one_rope_for_all_layers_is_refused_by_a_class_with_several",
    ),
    Refusal(
        "learned positions: a target whose table has another length than the base's, a donor with a shorter "
        "one",
        "there are no rows to add the delta to",
        "a target with the base's table",
        "parity/test_learned_positions.py::test_targets_and_donors_with_other_tables",
    ),
    Refusal(
        "experts that are stacked in one tensor in the base and stored one by one in the donor, or the "
        "reverse",
        "`extract` compares tensors as they are stored",
        "save both alike",
        "parity/test_refusals.py::test_experts_stacked_on_one_side_only",
    ),
    Refusal(
        "quantised models: bitsandbytes, GPTQ, AWQ, compressed-tensors, MXFP4 and others",
        "no delta can be computed from packed weights or added to them",
        "the original weights; FP8 with scales: `fetch --dequantize`",
        "checkpoint/test_full_precision.py::test_the_method_is_the_reason_before_anything_else",
    ),
    Refusal(
        "FP8 whose scales are not those of blocks or tensors",
        "transformers computes other values than a product with `weight_scale_inv`",
        "the original weights",
        "sources/test_dequantise.py::test_other_forms_of_fp8_are_refused_by_name",
    ),
    Refusal(
        "weights as pickles",
        "reading one may run code",
        "`fetch --convert-pickles`",
        "sources/test_pickles.py::test_a_folder_that_was_not_converted_names_the_remedy",
    ),
    Refusal(
        "GGUF files of other architectures than Llama, with scaled RoPE (Llama 3.1 and later) or another "
        "tokenizer",
        "the config would have to be guessed",
        "the repository with safetensors",
        "sources/test_gguf.py::test_what_would_have_to_be_guessed_is_refused",
    ),
    Refusal(
        "adapters of other PEFT methods than LoRA (IA3, LoHa and others)",
        "a merge knows LoRA's factors only",
        "PEFT's merge_and_unload",
        "adapter/test_kinds.py::test_a_kind_without_a_row_is_refused",
    ),
    Refusal(
        "LoRA whose initialisation changed the base (PiSSA, OLoRA, CorDA), if it was not converted",
        "the factors are a difference from another base",
        "PEFT's save_pretrained with `path_initial_model_for_weight_conversion`",
        "adapter/test_merge.py::test_malformed_adapters_are_refused",
    ),
    Refusal(
        "LoftQ; LoRA that depends on the tokens (Arrow, aLoRA); factors without their magnitudes",
        "no fixed delta of the base's weights is the adapter",
        "PEFT at run time",
        "adapter/test_any_lora.py::test_what_cannot_be_merged_says_why",
    ),
    Refusal(
        "DoRA on Conv1D layers (GPT-2)",
        "the magnitudes belong to the other dimension",
        "PEFT's merge_and_unload",
        "parity/test_learned_positions.py::test_dora_of_conv1d_is_refused",
    ),
    Refusal(
        "adapters with several adapters in one file, and factors under names of other programs",
        "it is not known which is meant",
        "save one with PEFT's save_pretrained",
        "adapter/test_adapters_as_found.py::test_a_file_of_several_adapters_is_refused_by_their_names",
    ),
    Refusal(
        "modules that an adapter stores in full",
        "they would overwrite what the fine-tune learned",
        "`--replace-modules`",
        "adapter/test_any_lora.py::test_what_would_overwrite_must_be_allowed",
    ),
    Refusal(
        "`--gguf` for embeddings that input and output share",
        "llama.cpp ends with an abort",
        "leave out `--gguf` or `--embeddings`, or convert a graft",
        "adapter/test_gguf.py::test_embeddings_of_a_tied_base_are_refused",
    ),
)


def lines() -> list[str]:
    """The section of the page."""
    reasons: dict[str, list[str]] = {}
    for name, reason in NO_ADAPTER.items():
        reasons.setdefault(reason, []).append(name)
    rows = [
        *(f"| {what} | {why} | {instead} | `{test}` |" for what, why, instead, test in REFUSALS),
        *(
            f"| `--gguf` for {', '.join(names)} | {reason} | merge | "
            "`parity/test_refusals.py::test_llama_cpp_takes_no_adapters_of_some_classes` |"
            for reason, names in reasons.items()
        ),
    ]
    return [
        "## What is refused",
        "",
        "These end with one line and exit code 2, before anything is written. The last column is the test",
        "below `tests/` that shows it.",
        "",
        "| input | why | instead | test |",
        "|---|---|---|---|",
        *rows,
    ]

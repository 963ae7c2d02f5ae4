"""A fine-tune's skill as a task of lm-evaluation-harness, by the path of its YAML file or by its name."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lm_eval.evaluator import evaluate
from lm_eval.utils import handle_non_serializable, hash_string
from typing_extensions import override

from contextgraft.checkpoint.digest import json_digest
from contextgraft.config.evaluation import Chat
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.tokenizer import PromptTokenizer
from contextgraft.evaluation.suites.base import (
    LoadedModel,
    Measurement,
    SampleColumns,
    SampleRow,
    failure_reason,
    scored_row,
    unscored_row,
)
from contextgraft.evaluation.suites.lm_eval.model import TextLM
from contextgraft.evaluation.suites.lm_eval.task import (
    draw_documents,
    load_task,
    pick_metric,
    quiet_lm_eval,
    split_metric,
)


@dataclass(frozen=True)
class LmEvalSkill(Measurement):
    """Documents of a task, drawn by seed; a row is a document, its score one metric between 0 and 1.

    `digest` covers every request, with its few-shot examples, and how it is scored; `prompts` has the digest
    of each document's requests. `only` is the index of the one document to evaluate, all if it is None: the
    requests of all are built in any case, because lm-eval draws their few-shot examples one after another.
    """

    task: Any
    name: str
    metric: str
    version: str
    documents: tuple[int, ...]
    hashes: tuple[str, ...]
    prompts: tuple[str, ...]
    seed: int
    digest: str
    only: int | None = None
    chat: Chat = False
    suite: ClassVar[str] = "skill"

    @override
    def key(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "task": self.name,
            "metric": self.metric,
            "version": self.version,
            "digest": self.digest,
            "seed": self.seed,
            "only": self.only,
            **({"chat": self.chat} if self.chat else {}),
        }

    @override
    def check(self, tokenizer: PromptTokenizer) -> None:
        """CheckpointError for a tokenizer that cannot encode the requests within its limits.

        lm-eval encodes them again, without limits.
        """
        for instance in self.task.instances:
            tokenizer.encode("".join(part for part in instance.args if isinstance(part, str)))

    @override
    def __len__(self) -> int:
        return len(self.documents) if self.only is None else 1

    @override
    def longest(self, tokenizer: PromptTokenizer) -> int:
        """Tokens of the longest context, without its answer."""
        return max(len(tokenizer.encode(instance.args[0])) for instance in self.task.instances)

    @override
    def narrowed(self, row: SampleRow) -> "LmEvalSkill":
        """The row's document alone.

        If the task draws few-shot examples, it must be read with the same number of documents and seed.
        """
        specs = [blank["recipe"] for blank in self._blanks()]
        if row["recipe"] not in specs or row["scoring"] != self.metric:
            raise InputError(
                f"the task {self.name} is not what the row was evaluated with",
                expected=f"{row['recipe']}, {row['scoring']}",
                received=f"version {self.version}, {self.metric}, {len(specs)} documents",
                remedy="give the same --skill TASK[:METRIC]",
            )
        return replace(self, only=specs.index(row["recipe"]))

    @override
    def text(self, tokenizer: PromptTokenizer) -> str:
        """The requests of the documents that are evaluated: context and continuation of each."""
        return "\n".join(
            "".join(part for part in instance.args if isinstance(part, str))
            for instance in self.task.instances
            if self.only in (None, instance.doc_id)
        )

    @override
    def rows(self, loaded: LoadedModel, advance: Callable[[int], object] = int) -> list[SampleColumns]:
        """All documents in one call of lm-eval; if torch cannot run them (out of memory, say), all fail."""
        chat = loaded.tokenizer.uses_chat(self.chat)
        if chat:
            loaded.tokenizer.prefix_suffix(chat=True)  # checks the template, which lm-eval applies unchecked
        with quiet_lm_eval():
            lm = TextLM(loaded.model, loaded.tokenizer.hf, batch_size=loaded.batch_size, only=self.only)
        try:
            samples = run_task(self.task, lm, self.documents, self.seed, chat=chat)
        except (RuntimeError, IndexError) as error:  # the latter: a token that the model has no row for
            rows = self.unscored_rows(loaded.tokenizer, "failed", failure_reason(error))
        else:
            rows = [
                self._row(sample, lm, index, blank)
                for index, (sample, blank) in enumerate(zip(samples, self._blanks(), strict=True))
                if self.only in (None, index)
            ]
        advance(len(rows))
        return [{**row, "chat": int(chat)} for row in rows]

    @override
    def unscored_rows(self, tokenizer: PromptTokenizer, status: str, reason: str) -> list[SampleColumns]:
        return [unscored_row(row, status, reason) for row in self._blanks()]

    def _row(self, sample: Mapping[str, Any], lm: TextLM, index: int, blank: SampleColumns) -> SampleColumns:
        tokens = lm.lengths[index]
        row = {**blank, "prompt_tokens": tokens, "answer": expected_answer(self.task, sample)}
        if index in lm.too_long:
            reason = f"needs {tokens} tokens, the model has {lm.positions} positions and no rotary ones"
            return unscored_row(row, "truncated", f"{reason}; it was not evaluated")
        score = float(sample[self.metric])
        if not 0 <= score <= 1:
            return unscored_row(row, "failed", f"{self.metric} is {score}, not a score from 0 to 1")
        return scored_row({**row, "output": OUTPUTS[self.task.OUTPUT_TYPE](self.task, sample)}, score)

    def _blanks(self) -> list[SampleColumns]:
        return [
            {
                "suite": self.suite,
                "task": self.name,
                "seed": self.seed,
                "sample_index": document,
                "prompt_digest": prompt,
                "recipe": json.dumps(
                    {
                        "task": self.name,
                        "doc_id": document,
                        "doc_hash": digest,
                        "version": self.version,
                    },
                    sort_keys=True,
                    ensure_ascii=False,
                ),
                "scoring": self.metric,
            }
            for document, digest, prompt in zip(self.documents, self.hashes, self.prompts, strict=True)
        ]


def read_lm_eval_skill(name: str, samples: int | None, seed: int, chat: Chat = False) -> LmEvalSkill:
    """A task by the path of its YAML or by lm-eval's name; `:METRIC` at the end selects another metric.

    In a chat, lm-eval applies the template to the requests when they are run; digests are those of the
    requests without it. Its data must be in local files or in the cache of `datasets`; else InputError.
    """
    spec, metric = split_metric(name)
    task = load_task(spec)
    metric = pick_metric(task, spec, metric)
    documents = draw_documents(task, spec, samples, seed)
    build_requests(task, documents, seed)
    firsts = {instance.doc_id: instance.doc for instance in reversed(task.instances)}
    requests: dict[int, list[Any]] = defaultdict(list)
    for instance in task.instances:
        requests[instance.doc_id].append([instance.request_type, instance.args])
    config = {key: value for key, value in task.dump_config().items() if key != "metadata"}
    return LmEvalSkill(
        task=task,
        name=task.task_name,
        metric=metric,
        version=str(task.VERSION),
        documents=documents,
        hashes=tuple(hash_string(as_json(firsts[n])) for n in range(len(documents))),
        prompts=tuple(json_digest(as_json(requests[n])) for n in range(len(documents))),
        seed=seed,
        digest=json_digest([as_json(list(requests.values())), as_json(config)]),
        chat=chat,
    )


def build_requests(task: Any, documents: Sequence[int], seed: int) -> None:
    """Build the task's requests, its few-shot examples drawn by seed."""
    task.set_fewshot_seed(seed)
    with quiet_lm_eval():
        task.build_all_requests(samples=list(documents))


def run_task(
    task: Any, lm: TextLM, documents: Sequence[int], seed: int, *, chat: bool = False
) -> list[dict[str, Any]]:
    """Run the task; one sample per document, of the first of the task's filters.

    `evaluate` and not `simple_evaluate`, which calls git, pip and the hub each time.
    """
    task.set_fewshot_seed(seed)
    name = task.task_name
    with quiet_lm_eval():
        results = evaluate(
            lm=lm, task_dict={"tasks": {name: task}}, samples={name: list(documents)}, bootstrap_iters=0,
            apply_chat_template=chat,
        )  # fmt: skip
    samples: list[dict[str, Any]] = results["samples"][name]
    return sorted(
        (sample for sample in samples if sample["filter"] == samples[0]["filter"]),
        key=lambda sample: sample["doc_id"],
    )


def expected_answer(task: Any, sample: Mapping[str, Any]) -> str:
    """The target as text: a choice in its words, several targets as a JSON list."""
    target = sample["target"]
    choices = choices_of(task, sample)
    if isinstance(target, int) and choices is not None and 0 <= target < len(choices):
        return choices[target]
    return target if isinstance(target, str) else as_json(target)


def choices_of(task: Any, sample: Mapping[str, Any]) -> list[str] | None:
    """A document's choices; None if the task chooses between contexts instead."""
    if getattr(task.config, "doc_to_choice", None) is None or getattr(task, "multiple_input", False):
        return None
    return [str(choice) for choice in task.doc_to_choice(sample["doc"])]


def likeliest_choice(task: Any, sample: Mapping[str, Any]) -> str:
    """The choice with the highest likelihood, or its number."""
    likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
    choices = choices_of(task, sample)
    best = max(range(len(choices or likelihoods)), key=likelihoods.__getitem__)
    return str(best) if choices is None else choices[best]


def greedy_match(task: Any, sample: Mapping[str, Any]) -> str:  # noqa: ARG001 - one signature
    """Whether the continuation is the model's greedy one, and its negative log-likelihood, as JSON."""
    likelihood, is_greedy = sample["filtered_resps"][0]
    nats = round(-likelihood, 4) if math.isfinite(likelihood) else None  # the rest depends on the batch
    return as_json({"greedy": bool(is_greedy), "nats": nats})


def filtered_text(task: Any, sample: Mapping[str, Any]) -> str:  # noqa: ARG001 - one signature
    """The generated text after the task's filter."""
    answer = sample["filtered_resps"][0]
    return answer if isinstance(answer, str) else as_json(answer)


OUTPUTS: dict[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "multiple_choice": likeliest_choice,
    "loglikelihood": greedy_match,
    "generate_until": filtered_text,
}


def as_json(value: Any) -> str:
    """A value of a task as JSON, whatever its type."""
    return json.dumps(value, default=handle_non_serializable, ensure_ascii=False, sort_keys=True)

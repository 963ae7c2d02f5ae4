"""A fine-tune's skill as a task of lm-evaluation-harness: a YAML of the user's, or one that it knows."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from lm_eval.evaluator import evaluate
from lm_eval.utils import handle_non_serializable, hash_string

from contextgraft.checkpoint.digest import json_digest
from contextgraft.errors import InputError
from contextgraft.evaluation.backends.lm_eval_hf import TextLM
from contextgraft.evaluation.backends.tokenizer import Tokens
from contextgraft.evaluation.harness import quiet
from contextgraft.evaluation.suites.base import Row, Subject, failure, missed, scored
from contextgraft.evaluation.suites.lm_eval_task import draw, load_task, pick_metric, split_metric


@dataclass(frozen=True)
class HarnessSkill:
    """Documents of a task, drawn by seed; a row is a document, its score one metric between 0 and 1.

    `digest` covers every request that is made, with its examples, and how it is scored; `prompts` has the
    digest of each document's requests. `only` is the place of the one document that is asked, all if it is
    None: all their requests are made in any case, because the examples are drawn in turn.
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
    suite: ClassVar[str] = "skill"

    def key(self) -> dict[str, Any]:
        """Task, metric, requests and seed."""
        return {
            "suite": self.suite,
            "task": self.name,
            "metric": self.metric,
            "version": self.version,
            "digest": self.digest,
            "seed": self.seed,
            "only": self.only,
        }

    def check(self, tokens: Tokens) -> None:
        """Any text can be asked of any tokenizer."""

    def count(self) -> int:
        """Documents."""
        return len(self.documents) if self.only is None else 1

    def longest(self, tokens: Tokens) -> int:
        """Tokens of the longest context, without its answer."""
        return max(len(tokens.encode(instance.args[0])) for instance in self.task.instances)

    def again(self, row: Mapping[str, Any]) -> "HarnessSkill":
        """The row's document alone.

        Where the task draws examples, it must have been read with the same number of documents and seed.
        """
        recipes = [blank["recipe"] for blank in self._blanks()]
        if row["recipe"] not in recipes or row["scoring"] != self.metric:
            raise InputError(
                f"the task {self.name} is not what the row was asked with",
                expected=f"{row['recipe']}, {row['scoring']}",
                received=f"version {self.version}, {self.metric}, {len(recipes)} documents",
                remedy="give the same --skill TASK[:METRIC]",
            )
        return replace(self, only=recipes.index(row["recipe"]))

    def text(self, tokens: Tokens) -> str:  # noqa: ARG002 - of any tokenizer
        """Each request of the documents that are asked: its context, and what may follow."""
        return "\n".join(
            "".join(part for part in instance.args if isinstance(part, str))
            for instance in self.task.instances
            if self.only in (None, instance.doc_id)
        )

    def ready(self, work: Path, reference: str) -> bool:  # noqa: ARG002 - nothing is needed
        """Always."""
        return True

    def rows(self, subject: Subject, advance: Callable[[int], object] = int) -> list[Row]:
        """All documents in one go; if torch cannot run them (memory, say), all of them fail."""
        with quiet():
            lm = TextLM(
                subject.model, subject.tokens.tokenizer, batch_size=subject.batch_size, only=self.only
            )
        try:
            samples = sit(self.task, lm, self.documents, self.seed)
        except (RuntimeError, IndexError) as error:  # the latter: a token that the model has no row for
            rows = self.unmeasured(subject.tokens, "failed", failure(error))
        else:
            rows = [
                self._row(sample, lm, place, blank)
                for place, (sample, blank) in enumerate(zip(samples, self._blanks(), strict=True))
                if self.only in (None, place)
            ]
        advance(len(rows))
        return rows

    def unmeasured(self, tokens: Tokens, status: str, reason: str) -> list[Row]:  # noqa: ARG002 - of any tokenizer
        """Every document without a score."""
        return [missed(row, status, reason) for row in self._blanks()]

    def _row(self, sample: Mapping[str, Any], lm: TextLM, place: int, blank: Row) -> Row:
        tokens = lm.lengths[place]
        row = {**blank, "prompt_tokens": tokens, "answer": expected(self.task, sample)}
        if place in lm.unasked:
            reason = f"needs {tokens} tokens, the model has {lm.room} positions and no rotary ones"
            return missed(row, "truncated", f"{reason}; it was not asked")
        score = float(sample[self.metric])
        if not 0 <= score <= 1:
            return missed(row, "failed", f"{self.metric} is {score}, not a score from 0 to 1")
        return scored({**row, "output": OUTPUTS[self.task.OUTPUT_TYPE](self.task, sample)}, score)

    def _blanks(self) -> list[Row]:
        return [
            {
                "suite": self.suite,
                "task": self.name,
                "seed": self.seed,
                "index": document,
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


def read_harness_skill(name: str, samples: int | None, seed: int) -> HarnessSkill:
    """A task by the path of its YAML or by lm-eval's name for it, `:METRIC` behind it if not the first one.

    Its data must be at hand, in local files or in the cache of `datasets`. InputError says what is wrong.
    """
    spec, metric = split_metric(name)
    task = load_task(spec)
    metric = pick_metric(task, spec, metric)
    documents = draw(task, spec, samples, seed)
    build(task, documents, seed)
    firsts = {instance.doc_id: instance.doc for instance in reversed(task.instances)}
    requests: dict[int, list[Any]] = defaultdict(list)
    for instance in task.instances:
        requests[instance.doc_id].append([instance.request_type, instance.args])
    config = {key: value for key, value in task.dump_config().items() if key != "metadata"}
    return HarnessSkill(
        task=task,
        name=task.task_name,
        metric=metric,
        version=str(task.VERSION),
        documents=documents,
        hashes=tuple(hash_string(as_json(firsts[place])) for place in range(len(documents))),
        prompts=tuple(json_digest(as_json(requests[place])) for place in range(len(documents))),
        seed=seed,
        digest=json_digest([as_json(list(requests.values())), as_json(config)]),
    )


def build(task: Any, documents: Sequence[int], seed: int) -> None:
    """Make the task's requests, its examples drawn by seed."""
    task.set_fewshot_seed(seed)
    with quiet():
        task.build_all_requests(samples=list(documents))


def sit(task: Any, lm: TextLM, documents: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Run the task; a sample for each document, of the first of its filters."""
    task.set_fewshot_seed(seed)
    name = task.task_name
    with quiet():
        results = evaluate(
            lm=lm, task_dict={"tasks": {name: task}}, samples={name: list(documents)}, bootstrap_iters=0
        )
    found: list[dict[str, Any]] = results["samples"][name]
    return sorted(
        (sample for sample in found if sample["filter"] == found[0]["filter"]),
        key=lambda sample: sample["doc_id"],
    )


def expected(task: Any, sample: Mapping[str, Any]) -> str:
    """The target as text: a choice in its words, several targets as a JSON list."""
    target = sample["target"]
    choices = choices_of(task, sample)
    if isinstance(target, int) and choices is not None and 0 <= target < len(choices):
        return choices[target]
    return target if isinstance(target, str) else as_json(target)


def choices_of(task: Any, sample: Mapping[str, Any]) -> list[str] | None:
    """A document's choices; none where the contexts are what is chosen from."""
    if getattr(task.config, "doc_to_choice", None) is None or getattr(task, "multiple_input", False):
        return None
    return [str(choice) for choice in task.doc_to_choice(sample["doc"])]


def chosen(task: Any, sample: Mapping[str, Any]) -> str:
    """The choice that the model holds the likeliest, or its number."""
    likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
    choices = choices_of(task, sample)
    best = max(range(len(choices or likelihoods)), key=likelihoods.__getitem__)
    return str(best) if choices is None else choices[best]


def greedy(task: Any, sample: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    """Whether the continuation is what the model itself would say, and how likely it is."""
    likelihood, is_greedy = sample["filtered_resps"][0]
    nats = round(-likelihood, 4) if math.isfinite(likelihood) else None  # the rest depends on the batch
    return as_json({"greedy": bool(is_greedy), "nats": nats})


def generated(task: Any, sample: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    """What the model said, after the task's filter."""
    answer = sample["filtered_resps"][0]
    return answer if isinstance(answer, str) else as_json(answer)


OUTPUTS: dict[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "multiple_choice": chosen,
    "loglikelihood": greedy,
    "generate_until": generated,
}


def as_json(value: Any) -> str:
    """A value as JSON, however a task made it."""
    return json.dumps(value, default=handle_non_serializable, ensure_ascii=False, sort_keys=True)

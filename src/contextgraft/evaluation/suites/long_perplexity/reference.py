"""The model that chooses the key tokens of a run: opened once, loaded once, before the models."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from contextgraft.checkpoint.atomic import publish_file
from contextgraft.checkpoint.digest import json_digest
from contextgraft.checkpoint.input_files import unchanged
from contextgraft.errors import CheckpointError, ConfigError, ContextgraftError, InputError, raise_read_error
from contextgraft.evaluation.suites.base import exceeds_positions, failure_reason, largest_id
from contextgraft.evaluation.suites.text_prompts import PromptSource, TextPrompt
from contextgraft.formats.refusal import is_final

if TYPE_CHECKING:  # plans import suites, but not transformers
    from contextgraft.evaluation.backends.registry import BackendConfig
    from contextgraft.evaluation.models import EvalModel

STEPS = 4  # a short context is extended by a quarter of its length at a time
KeyTokens = Mapping[str, Sequence[int]]  # positions by the digest of a window


def short_contexts(short: int, length: int) -> range:
    """Where each short context of a window ends and its tokens with a far context begin."""
    return range(short, length, max(1, short // STEPS))


class KeyTokenReference:
    """Shared by the measurements of all lengths; `short` is the short context in tokens.

    A folder that cannot be used raises ConfigError: the configuration of the run is wrong, not a model of it.
    """

    def __init__(self, folder: Path, short: int) -> None:
        self.folder = folder
        self.short = short
        self._windows: dict[str, list[TextPrompt]] = {}
        self._engine = ""
        self._chosen: dict[str, KeyTokens | str] = {}  # of each source: key tokens, or why there are none

    @cached_property
    def model(self) -> "EvalModel":
        """The opened folder, with the digest of its weights."""
        from contextgraft.evaluation.models import open_eval_model

        with self._as_mistake():
            return open_eval_model("reference", self.folder)

    @cached_property
    def identity(self) -> str:
        """Digest of all in its folder that decides the key tokens."""
        from contextgraft.evaluation.models import deciding_content

        return json_digest(deciding_content(self.model))

    def with_short(self, short: int) -> Self:
        """The same model with another short context; what was read of it is kept."""
        other = type(self)(self.folder, short)
        other.model = self.model
        return other

    def check(self, length: int) -> None:
        """Raise ConfigError unless the folder is a model with enough positions; no weights are read."""
        from contextgraft.checkpoint.model_folder import open_model
        from contextgraft.evaluation.backends.loading import load_config, max_positions
        from contextgraft.formats.model.loadable import check_loadable

        with self._as_mistake():
            check_loadable(open_model(self.folder))
            positions = max_positions(load_config(self.folder))
            if positions is not None and positions < length:
                raise CheckpointError(
                    "has too few positions for the windows of long_perplexity",
                    expected=f"{length} or more, or rotary ones", received=positions,
                )  # fmt: skip

    def windows(self, source: PromptSource) -> list[TextPrompt]:
        """The windows of a source in the reference's tokens; none if its tokenizer lacks words of it."""
        name = json_digest(source.key())
        if name not in self._windows:
            tokenizer, windows = self.model.tokenizer, list[TextPrompt]()
            with self._as_mistake(), suppress(InputError):
                windows = source.prompts(tokenizer)
            self._windows[name] = windows
        return self._windows[name]

    def key_tokens(self, source: PromptSource) -> KeyTokens | str:
        """The key tokens that `choose` found, or why torch could not compute them."""
        return self._chosen[json_digest(source.key())]

    def choose(self, sources: Sequence[PromptSource], work: Path, backend: "BackendConfig") -> None:
        """Choose the key tokens of all sources, but for those that an earlier run left in `work`.

        The reference is run on the device and in the dtype of the models; "auto" is its own dtype.
        """
        from contextgraft.evaluation.backends.registry import backend_key
        from contextgraft.formats import samples

        engine = json_digest([self.identity, self.short, backend_key(backend), samples.versions()])
        if engine != self._engine:
            self._engine, self._chosen = engine, {}
        paths: dict[str, Path] = {}
        missing: dict[str, PromptSource] = {}
        for source in filter(self.windows, sources):
            name = json_digest(source.key())
            paths[name] = work / f"key-tokens-{json_digest([engine, name])}.json"
            kept = self._chosen.get(name) or read_key_tokens(paths[name])
            if kept is None:
                missing[name] = source
            else:
                self._chosen[name] = kept
        if not missing:
            return
        with self._as_mistake(), unchanged(self.model.inputs):
            chosen = self._compute(missing, backend)
        for name, keys in chosen.items():
            if not isinstance(keys, str):
                write_key_tokens(paths[name], keys)
        self._chosen |= chosen

    def _compute(
        self, sources: Mapping[str, PromptSource], backend: "BackendConfig"
    ) -> dict[str, KeyTokens | str]:
        from contextgraft.evaluation.backends.loading import check_vocabulary, find_device, load_model
        from contextgraft.evaluation.suites.long_perplexity.key_tokens import key_positions

        windows = {name: self.windows(source) for name, source in sources.items()}
        model = load_model(self.folder, find_device(backend.device), backend.dtype)
        begin = len(self.model.tokenizer.prefix_suffix(chat=False)[0])
        chosen: dict[str, KeyTokens | str] = {}
        for name, prompts in windows.items():
            check_vocabulary(model, self.folder, largest_id([prompt.ids for prompt in prompts]))
            reason = exceeds_positions(model, max(len(prompt.ids) for prompt in prompts))
            if reason is not None:
                raise CheckpointError(reason, path=self.folder)
            try:
                chosen[name] = {
                    prompt.digest: key_positions(model, prompt.ids, self.short, begin) for prompt in prompts
                }
            except RuntimeError as error:
                chosen[name] = f"the reference: {failure_reason(error)}"
        return chosen

    @contextmanager
    def _as_mistake(self) -> Iterator[None]:
        """Report an error about the reference as one of the configuration, which refuses no model."""
        try:
            yield
        except ContextgraftError as error:
            if not is_final(error):
                raise
            raise ConfigError(
                "the reference of long_perplexity cannot be used", path=self.folder, received=error,
                remedy="set evaluation.long_perplexity.reference to another model",
            ) from None  # fmt: skip


def write_key_tokens(path: Path, keys: KeyTokens) -> None:
    """Write key tokens with a digest of them."""
    record = {"keys": keys, "digest": json_digest(keys)}
    with publish_file(path) as temporary:
        temporary.write_text(json.dumps(record, sort_keys=True), encoding="utf-8")


def read_key_tokens(path: Path) -> KeyTokens | None:
    """Key tokens as they were written; None if there are none, or the file was spoiled."""
    try:
        record = json.loads(path.read_bytes())
        keys: KeyTokens = record["keys"]
        return keys if record["digest"] == json_digest(keys) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise_read_error(error, path)
        return None

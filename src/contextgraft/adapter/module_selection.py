"""Which modules an adapter's config selects, by PEFT's rules (0.21): it ignores the factors of others."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from contextgraft.adapter.patterns import PLAIN, LimitedMatcher, is_pattern
from contextgraft.errors import CheckpointError
from contextgraft.formats.tensor_names import holds_positions, rows_are_tokens

ALL_LINEAR = "all-linear"
MOST_HOLDERS = 100  # modules that hold layers; models have a few


@dataclass(frozen=True)
class ModuleSelection:
    """The settings of adapter_config.json that select modules for factors, by PEFT's names."""

    path: Path
    target_modules: frozenset[str] | str | None
    exclude_modules: frozenset[str] | str | None = None
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise CheckpointError for patterns that cannot be used, and for settings that PEFT refuses."""
        if isinstance(self.target_modules, str) and self.layers_to_transform:
            raise CheckpointError(
                "has layers_to_transform, which PEFT does not combine with a pattern of target_modules",
                path=self.path, expected="a list of target_modules", received=self.target_modules[:80],
            )  # fmt: skip
        for key in ("target_modules", "exclude_modules"):
            pattern = getattr(self, key)
            if isinstance(pattern, str) and not is_pattern(_whole(pattern)):
                raise CheckpointError(
                    f"has a pattern for {key} that cannot be used", path=self.path,
                    expected="a regular expression", received=repr(pattern)[:80],
                    remedy="write the names of the modules as a list",
                )  # fmt: skip
        names = all(PLAIN.fullmatch(name) and is_pattern(name) for name in self.layers_pattern[:MOST_HOLDERS])
        if not names or len(self.layers_pattern) > MOST_HOLDERS:
            raise CheckpointError(
                "has layers_pattern that cannot be used", path=self.path,
                expected=f"at most {MOST_HOLDERS} names of the modules that hold the layers",
                received=repr(self.layers_pattern)[:80],
            )  # fmt: skip

    def has_factors(self, module: str) -> bool:
        """Whether PEFT gives a module of this name factors; without target_modules, none."""
        if self._is_excluded(module) or self.is_saved(module):
            return False
        return self.is_target(module) and self._is_in_layers(module)

    def is_saved(self, module: str) -> bool:
        """Whether modules_to_save name a module, or one that holds it."""
        return any(f".{name}." in f".{module}." for name in self.modules_to_save)

    @property
    def is_all_linear(self) -> bool:
        """Whether the modules are the linear layers of the model, whatever their names."""
        return isinstance(self.target_modules, str) and self.target_modules.lower() == ALL_LINEAR

    def is_target(self, module: str) -> bool:
        """Whether target_modules name a module, whatever the other settings say."""
        if self.is_all_linear:
            weight = f"{module}.weight"
            return not rows_are_tokens(weight) and not holds_positions(weight)
        return self._matches("target_modules", self.target_modules, module)

    def _is_excluded(self, module: str) -> bool:
        return self._matches("exclude_modules", self.exclude_modules, module)

    def _matches(self, key: str, chosen: frozenset[str] | str | None, module: str) -> bool:
        if not chosen:
            return False
        if isinstance(chosen, str):
            return self._matchers[key].matches(_whole(chosen), module)
        return not chosen.isdisjoint(_ends(module))

    @cached_property
    def _matchers(self) -> dict[str, LimitedMatcher]:
        return {key: LimitedMatcher(key, self.path) for key in ("target_modules", "exclude_modules")}

    def _is_in_layers(self, module: str) -> bool:
        named_in_full = isinstance(self.target_modules, frozenset) and module in self.target_modules
        if not self.layers_to_transform or named_in_full:
            return True
        matches = (layer.match(module) for layer in self._layers)
        first = next(filter(None, matches), None)
        return first is not None and int(first["index"]) in self.layers_to_transform

    @cached_property
    def _layers(self) -> list[re.Pattern[str]]:
        """What the names of modules in layers begin with, for each module that holds layers."""
        holders = self.layers_pattern or (r"[^.]*",)
        front = r"(?:^|.*?\.)" if self.layers_pattern else r".*?\."
        return [re.compile(rf"{front}{holder}\.(?P<index>\d+)\.") for holder in holders]


def _ends(module: str) -> Iterator[str]:
    """The name, and every end of it that begins after a dot."""
    yield module
    yield from (module[dot.end() :] for dot in re.finditer(r"\.", module))


def _whole(pattern: str) -> str:
    """A pattern that matches a whole name; flags at its front are valid inside, too."""
    flags = re.match(r"\(\?([aimsx]+)\)", pattern)
    return rf"\A(?:{pattern})\Z" if flags is None else rf"\A(?{flags[1]}:{pattern[flags.end() :]})\Z"

"""All mistakes of configuration files at once."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from contextgraft.errors import ContextgraftError, InputError, SeveralMistakes, mistakes_of


class MistakeCollector:
    """Runs checks of configuration files one after another, so that all mistakes are reported at once."""

    def __init__(self) -> None:
        self.mistakes: list[ContextgraftError] = []

    @contextmanager
    def check(self) -> Iterator[None]:
        """Collect the mistake that is raised inside."""
        try:
            yield
        except InputError as error:
            self.mistakes += mistakes_of(error)

    def add(self, mistakes: Iterable[ContextgraftError]) -> None:
        """Collect mistakes that a check returns."""
        self.mistakes += mistakes

    def raise_mistakes(self) -> None:
        """Raise the mistake that was collected, or SeveralMistakes."""
        if len(self.mistakes) == 1:
            raise self.mistakes[0]
        if self.mistakes:
            raise SeveralMistakes(self.mistakes)

"""The head of a model card: metadata that the hub reads, the title, and what the licence demands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contextgraft._version import __version__
from contextgraft.formats.hub_source import hub_repository
from contextgraft.formats.model_card.licence import LicenceTerms, licence_of, name_fits, terms_of
from contextgraft.formats.model_card.markdown import escape
from contextgraft.formats.model_card.scores import CardScores, evaluation_results, reached_by_all

# library that loads a model, and the hub's tags for it, by its relation to the base
LIBRARIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "adapter": ("peft", ("lora",)),
    "merge": ("transformers", ("merge",)),
    "finetune": ("transformers", ()),
}


@dataclass(frozen=True)
class CardHead:
    """Title and metadata of a card.

    `relation` is the hub's term for how the model was made of its `parents`: the most direct first, with the
    licence; models that are not on the hub are not named. Of a merge, the donor is a parent, too.
    """

    title: str
    relation: str
    parents: tuple[Mapping[str, Any], ...]
    donor: Mapping[str, Any] = field(default_factory=dict)
    scores: tuple[CardScores, ...] = ()

    def page(self, sections: Sequence[str]) -> str:
        """The whole card, with the licence after the given sections."""
        terms = terms_of(self._licence)
        shown = [f"**{terms.display}**"] if terms and terms.display else []
        notice = ["## Licence", *shown, terms.notice] if terms else []
        title = self._titled(terms)
        body = [f"# {escape(title)}", *sections, *notice, f"Card by contextgraft {__version__}."]
        return f"---\n{self._metadata(title)}\n---\n\n" + "\n\n".join(body) + "\n"

    def _titled(self, terms: LicenceTerms | None) -> str:
        """The title, which begins as the licence demands."""
        if terms is None or name_fits(self.title, terms):
            return self.title
        return f"{terms.name_begins}: {self.title}"

    @property
    def _licence(self) -> dict[str, str]:
        stated = (parent.get("license") for parent in self.parents)
        return licence_of(next((item for item in stated if isinstance(item, Mapping) and item), {}))

    def _metadata(self, title: str) -> str:
        from huggingface_hub.repocard_data import ModelCardData

        library, tags = LIBRARIES[self.relation]
        results = evaluation_results(self.scores)
        donor = hub_repository(self.donor.get("source"))
        named = (hub_repository(parent.get("source")) for parent in self.parents)
        merged = [donor] if self.relation == "merge" else []
        bases = list(dict.fromkeys(name for name in [*named, *merged] if name))
        more: dict[str, Any] = {
            **self._licence,
            "base_model_relation": self.relation if bases else None,
            "donor": donor,
            "measured_context_length": reached_by_all(self.scores),
        }
        data = ModelCardData(
            base_model=bases[0] if len(bases) == 1 else bases or None,
            library_name=library,
            pipeline_tag="text-generation",
            tags=["contextgraft", "long-context", *tags],
            eval_results=results or None,
            model_name=title if results else None,
            **{key: value for key, value in more.items() if value is not None},
        )
        return str(data.to_yaml())

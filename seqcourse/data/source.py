"""Where data come from: the source card that every data set and every record carries."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass


class GeneratedDataWarning(UserWarning):
    """A generated stand-in is in use, because the real data set is not at hand."""


class DataUnavailable(RuntimeError):
    """The real data set was asked for, and neither cache, mirror nor network has it."""


@dataclass(frozen=True)
class Source:
    """What a data set is, whether it is real, and whose it is.

    Args:
        name: Name of the data set in the registry, or of the generator.
        generated: True for a stand-in made by `seqcourse.data.generated`.
        sha256: Digest over the files (or the generated content) that were used.
        citation: How to cite the data.
        licence: Terms of use, as stated by the publisher.
        note: What a reader should know; for a stand-in, why it is one.
    """

    name: str
    generated: bool
    sha256: str
    citation: str = ""
    licence: str = ""
    note: str = ""

    @property
    def headline(self) -> str:
        """One line that says first of all whether the data are real."""
        if self.generated:
            return f"GENERATED stand-in, not the real data: {self.name}"
        return f"Real data: {self.name}"

    def as_dict(self) -> dict[str, str | bool]:
        """Plain dictionary, as a record keeps it."""
        return asdict(self)

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("Why" if self.generated else "Note", self.note), ("Licence", self.licence)]
        rows += [("Citation", self.citation), ("sha256", self.sha256)]
        return [(name, value) for name, value in rows if value]

    def __str__(self) -> str:
        return "\n".join([self.headline, *(f"  {name}: {value}" for name, value in self._rows())])

    def _repr_markdown_(self) -> str:
        rows = (f"- {name}: {value}" for name, value in self._rows())
        return "\n".join([f"**{self.headline}**", "", *rows])

    def _repr_html_(self) -> str:
        # Colours are inherited, so the card reads well on a light and on a dark page. A stand-in is told
        # apart by its words and its dashed border, never by colour alone.
        border = "dashed" if self.generated else "solid"
        rows = "".join(
            f'<div><dt style="display:inline;font-weight:600">{name}:</dt> '
            f'<dd style="display:inline;margin:0;overflow-wrap:anywhere">{html.escape(value)}</dd></div>'
            for name, value in self._rows()
        )
        return (
            f'<div class="seqcourse-source" data-generated="{str(self.generated).lower()}" style="'
            f'border:2px {border} currentColor;border-radius:6px;padding:.5em .8em;margin:.5em 0">'
            f'<p style="margin:0"><strong>{html.escape(self.headline)}</strong></p>'
            f'<dl style="margin:.3em 0 0">{rows}</dl></div>'
        )

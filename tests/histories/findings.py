"""What a check has found, for people (Markdown) and machines (JSON)."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """A property that does not hold. `lines`: the evidence, in the order of time."""

    property: str
    what: str
    lines: tuple[str, ...] = ()
    thread: str | None = None
    run: str | None = None

    def to_markdown(self) -> str:
        ids = [f"{name} `{value}`" for name, value in (("thread", self.thread), ("run", self.run)) if value]
        head = f"* **{self.property}**: {self.what}" + (f" ({', '.join(ids)})" if ids else "")
        return "\n".join([head, *(f"    * `{line}`" for line in self.lines)])


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of `check`. `counts`: how much was looked at, so that an empty history shows."""

    findings: tuple[Finding, ...]
    counts: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def ok(self) -> bool:
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "counts": self.counts, "findings": [asdict(found) for found in self.findings]}

    def to_markdown(self) -> str:
        looked = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        if self.ok:
            return f"No violation in {looked}.\n"
        kinds = ", ".join(
            f"{count} × {name}" for name, count in Counter(f.property for f in self.findings).items()
        )
        return (
            "\n".join(
                [f"**{len(self.findings)} violations** ({kinds}) in {looked}:", ""]
                + [found.to_markdown() for found in self.findings]
            )
            + "\n"
        )

    def raise_if_violated(self) -> None:
        """Raises AssertionError with the whole report."""
        if not self.ok:
            raise AssertionError(self.to_markdown())

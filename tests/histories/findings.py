"""The result of a check, as Markdown and as JSON."""

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
    """The result of `check`. `counts`: how much was checked, so that an empty history is noticed."""

    findings: tuple[Finding, ...]
    counts: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def ok(self) -> bool:
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "counts": self.counts,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def to_markdown(self) -> str:
        checked = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        if self.ok:
            return f"No violation in {checked}.\n"
        kinds = ", ".join(
            f"{count} × {name}" for name, count in Counter(f.property for f in self.findings).items()
        )
        return (
            "\n".join(
                [f"**{len(self.findings)} violations** ({kinds}) in {checked}:", ""]
                + [finding.to_markdown() for finding in self.findings]
            )
            + "\n"
        )

    def raise_if_violated(self) -> None:
        """Raises AssertionError with the whole report."""
        if not self.ok:
            raise AssertionError(self.to_markdown())

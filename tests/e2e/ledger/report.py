"""The table of results, written into docs/reliability.md by a run that is asked to."""

from dataclasses import dataclass, field
from pathlib import Path

from bench.report import update_section

PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
HEAD = "| fault | acknowledged | lost | duplicated | recovery seconds |\n| --- | ---: | ---: | ---: | ---: |"


@dataclass(frozen=True)
class Row:
    """The result of one fault."""

    fault: str
    acknowledged: int
    lost: int
    duplicated: int
    recovery: float

    def __str__(self) -> str:
        return f"| {self.fault} | {self.acknowledged} | {self.lost} | {self.duplicated} | {self.recovery:.0f} |"


@dataclass
class Report:
    """The rows of a run."""

    rows: list[Row] = field(default_factory=list)

    def markdown(self) -> str:
        """Returns the table."""
        return "\n".join([HEAD, *(str(row) for row in self.rows)])

    def write(self, page: Path = PAGE) -> None:
        """Replaces the table of the page."""
        update_section(page, "results", self.markdown())

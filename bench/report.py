"""Writes what a benchmark measured into a page of the documentation, each benchmark into a section of its own."""

import re
from pathlib import Path


def update_section(page: Path, name: str, markdown: str) -> None:
    """Replaces the text between the marks `<!-- begin NAME -->` and `<!-- end NAME -->` of a page, or appends it."""
    text = page.read_text() if page.exists() else ""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n{markdown.strip()}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    text = pattern.sub(lambda _: section, text) if pattern.search(text) else f"{text.rstrip()}\n\n{section}\n".lstrip()
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text)

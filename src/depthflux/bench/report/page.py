"""A comparison as one HTML file that asks nobody for anything.

Style, script and small pictures are inside, and a Content-Security-Policy forbids all else. What
came from outside is escaped by the templates, whose own texts are the only markup. Knows nothing of
how anything was measured.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from depthflux.bench.document import Document
from depthflux.bench.report.cases import show_cases
from depthflux.bench.report.charts import legend_bar, legend_mark
from depthflux.bench.report.method import method, provenance, settings, summary
from depthflux.bench.report.rows import differences, phases, quality_by_case, time_by_case
from depthflux.bench.report.table import (
    Footnotes,
    differences_table,
    failures_table,
    lines_on_tasks,
    quality_table,
    side_rows,
)
from depthflux.bench.report.words import as_line, caveat_lines, labels
from depthflux.bench.wording import count

_TEMPLATES = Path(__file__).parent / "templates"
#: More are counted; report.json has them all.
_MOST_FAILURES = 100


def page(document: Document, folder: Path) -> bytes:
    """The report as a self-contained HTML file, UTF-8, at most about 20 MB.

    A picture that is missing or damaged is replaced by the reason; originals are linked by their
    paths in the folder, so the file belongs there.

    Args:
        document: the comparison.
        folder: the run's, in which the document's pictures are.
    """
    style, script = (_own_text(name) for name in ("page.css", "page.js"))
    html = (
        _environment()
        .get_template("page.html")
        .render(
            policy=_policy(style, script),
            # Ours, and hashed in the policy: escaping would change them.
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
            **_contents(document, folder),
        )
    )
    return html.encode()


def _contents(document: Document, folder: Path) -> dict[str, Any]:
    """What the template names; all texts in it are escaped there."""
    notes = Footnotes()
    return {
        "labels": labels(document.sides),
        "date": as_line(document.date),
        "suite": as_line(document.plan.suite),
        "same_noise": document.same_noise,
        "summary": summary(document),
        "differences": differences(document),
        "side_rows": list(side_rows(document, notes)),
        "side_lines": notes.lines(),
        "phases": phases(document),
        "time_chart": time_by_case(document),
        "time_lines": [*caveat_lines(document.speed), *lines_on_tasks(document)],
        "quality": quality_table(document),
        "quality_charts": quality_by_case(document),
        "apart": differences_table(document),
        "cases": show_cases(document, folder),
        "failures": failures_table(document, _MOST_FAILURES),
        "method": method(document),
        "notes": [as_line(note) for note in document.notes],
        "provenance": provenance(document),
        "settings": settings(document),
    }


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(legend_mark=legend_mark, legend_bar=legend_bar, count=count)
    return environment


def _policy(style: str, script: str) -> str:
    """Nothing but the pictures inside, and exactly this style and this script."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash_source(style)}; "
        f"script-src {_hash_source(script)}; base-uri 'none'; form-action 'none'"
    )


def _hash_source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _own_text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")

"""Jinja templates of the report: values are escaped, style and script are inlined."""

from __future__ import annotations

import base64
import hashlib
import shlex
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, **context: Any) -> str:
    """Render a template with the inlined style and script."""
    environment = _environment()
    script = _source("page.js")
    return environment.get_template(template).render(
        **context,
        style=Markup(_source("style.css")),  # trusted, like the script
        script=Markup(script),
        policy=_policy(script),
        quote=shlex.quote,
    )


def _policy(script: str) -> str:
    """Return a content security policy: no network, only this script, images only as data."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _source(name: str) -> str:
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

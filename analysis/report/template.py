"""The page's templates: everything that goes in is escaped, all that it needs is in it."""

from __future__ import annotations

import base64
import hashlib
import shlex
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, **told: Any) -> str:
    """A template's text, with the style and the script in it."""
    environment = _environment()
    script = _source("page.js")
    return environment.get_template(template).render(
        **told,
        style=Markup(_source("style.css")),  # ours, like the script
        script=Markup(script),
        policy=_policy(script),
        quote=shlex.quote,
    )


def _policy(script: str) -> str:
    """Nothing is fetched (figures hold images as data:), and no script runs but this one."""
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

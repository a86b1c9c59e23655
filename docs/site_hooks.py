"""Hooks of mkdocs.yml: pages from other folders, links to them, notebooks."""

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Pages outside docs/ and their names in the site.
OUTSIDE = {
    "README.md": "index.md",
    "results/README.md": "result-tables.md",
    "slurm/README.md": "test-cluster.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.txt",
    "CITATION.cff": "citation.txt",
}
# Folders without a page of their own; a link to one becomes a link to the given page.
FOLDERS = {"docs/appendix": "appendix/derivations.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
FENCE = re.compile(r"(^```.*?^```)", re.M | re.S)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the notebooks of docs/ to the navigation."""
    how_to = next(section["How-to"] for section in config.nav or [] if "How-to" in section)
    for path in notebooks():
        title = path.stem.replace("_", " ").capitalize() + " (notebook)"
        how_to.insert(2, {title.replace("cnn", "a CNN"): f"{path.stem}.md"})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/ and a page for each notebook."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for path in notebooks():
        content = notebook_markdown(json.loads(path.read_text()), path.name)
        files.append(File.generated(config, f"{path.stem}.md", content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point the page's links to the places of their targets in the site."""
    sources = {name: source for source, name in OUTSIDE.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = FENCE.split(markdown)  # odd parts are fenced code
    parts[::2] = [site_links(part, source, page.file.src_uri) for part in parts[::2]]
    return "".join(parts)


def site_links(markdown: str, source: str, page: str) -> str:
    """Translate links between files of the repository into links between pages of the site.

    Parameters
    ----------
    source, page
        The page's path in the repository, and in the site.
    """

    def replace(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups(default="")
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = os.path.normpath(os.path.join(os.path.dirname(source), target))
        place = OUTSIDE.get(path) or FOLDERS.get(path) or path.removeprefix("docs/")
        return f"{image}[{text}]({os.path.relpath(place, os.path.dirname(page) or '.')}{anchor})"

    return LINK.sub(replace, markdown)


def notebooks() -> list[Path]:
    """Return the notebooks of docs/."""
    return sorted((ROOT / "docs").glob("*.ipynb"))


def notebook_markdown(notebook: dict[str, Any], name: str) -> str:
    """Format an executed notebook as Markdown, with a link to download it."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        parts += [output_markdown(output) for output in cell.get("outputs", [])]
    parts.append(f"[Download this notebook]({name})")
    return "\n\n".join(parts) + "\n"


def output_markdown(output: dict[str, Any]) -> str:
    """Format one output of a cell: an image, HTML or text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        image = "".join(data["image/png"]).replace("\n", "")
        return f'<img alt="Figure drawn by the code above" src="data:image/png;base64,{image}">'
    if "text/html" in data:
        return (
            '<div class="output">' + re.sub(r"\n\s*\n", "\n", "".join(data["text/html"])) + "</div>"
        )
    return "```text\n" + "".join(data["text/plain"]).rstrip() + "\n```"

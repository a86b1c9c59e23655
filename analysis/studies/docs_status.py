"""List generated blocks of docs/ whose inputs changed after they were generated.

python -m analysis.studies.docs_status
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.scoring.inputs import SHARED_CODE, SWEEPS, module_files, scored_sweeps
from analysis.scoring.summary import summary_path
from analysis.studies.blocks import Block, read_blocks
from analysis.studies.reproductions import block_inputs
from experiments.sweep.provenance import REPOSITORY, git

DOCS = REPOSITORY / "docs"
MODULE = re.compile(r"-m (analysis\.[\w.]+)")


def problems(block: Block) -> Iterator[str]:
    """Yield what is wrong with a block's provenance.

    It lacks its command, commit or date; its commit is not in the history; or its study's YAML,
    module or summary, or the scoring code, changed since.
    """
    stamp = block.stamp
    for name in ("command", "commit", "date"):
        if not getattr(stamp, name):
            yield f"no {name}"
    commit = stamp.commit.partition("+")[0]
    if commit and git("merge-base", "--is-ancestor", commit, "HEAD") is None:
        yield f"commit {commit} is not in the history"
    if block.name in scored_sweeps() and stamp.inputs != block_inputs(block.name):
        yield "YAML, module, summary or scoring changed since; write the block again"


def changed_inputs(block: Block) -> list[str]:
    """Return the files that a block depends on and that changed since its commit.

    These are the module of its command and, for a sweep, its YAML, module and summary, and the
    packages that run cells.
    """
    commit = block.stamp.commit.partition("+")[0]
    paths = [SWEEPS / f"{block.name}.yaml", summary_path(block.name), *module_files(block.name)]
    paths += SHARED_CODE if block.name in scored_sweeps() else []
    if match := MODULE.search(block.stamp.command):
        paths.append(REPOSITORY / f"{match[1].replace('.', '/')}.py")
    inputs = [str(path.relative_to(REPOSITORY)) for path in paths if path.is_file()]
    changed = git("diff", "--name-only", commit, "--", *inputs, "fanin", "experiments")
    return (changed or "").split()


def status_line(block: Block) -> str:
    """Describe a block's state in one line; empty if nothing changed."""
    where = f"{block.page.relative_to(REPOSITORY)}: {block.name}"
    if found := list(problems(block)):
        return f"{where}: {'; '.join(found)}"
    changed = changed_inputs(block)
    if not changed:
        return ""
    listed = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    return f"{where}: written {block.stamp.date} at {block.stamp.commit}; changed since: {listed}"


def main() -> None:
    """Print the blocks whose inputs changed."""
    blocks = list(read_blocks(DOCS))
    lines = list(filter(None, map(status_line, blocks)))
    print("\n".join(lines))
    print(f"{len(lines)} of {len(blocks)} generated blocks are older than their inputs.")


if __name__ == "__main__":
    main()

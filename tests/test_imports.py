"""Layering: analysis imports experiments, which imports fanin, without import cycles."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("fanin", "experiments", "analysis")  # each may import those before it
NOT_IN_FANIN = ("hydra", "omegaconf", "submitit", "pebble", "pyarrow", "seaborn")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): ast.parse(path.read_text())
    for layer in LAYERS
    for path in sorted((ROOT / layer).rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """Return the names of the modules that a module imports, including imports in functions."""
    names = set()
    for node in ast.walk(SOURCES[module]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (submodules & SOURCES.keys()) or {node.module}
    return names - {module}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_lower_layers(layer):
    above = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = {
        (module, name)
        for module in SOURCES
        if module.partition(".")[0] == layer
        for name in imports(module)
        if name.partition(".")[0] in above
    }
    assert wrong == set()


def test_fanin_does_not_import_dependencies_of_the_sweep_runner():
    wrong = {
        (module, name)
        for module in SOURCES
        if module.partition(".")[0] == "fanin"
        for name in imports(module)
        if name.partition(".")[0] in NOT_IN_FANIN
    }
    assert wrong == set()


def test_fanin_imports_matplotlib_only_in_functions():
    """Plots are optional: `pip install .` does not install matplotlib."""
    wrong = set()
    for module, tree in SOURCES.items():
        if module.partition(".")[0] != "fanin":
            continue
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "matplotlib" for name in names):
                wrong.add(module)
    assert wrong == set()
    script = "import sys, fanin.theory, fanin.probes.probe; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_no_import_cycles():
    graph = {module: imports(module) & SOURCES.keys() for module in SOURCES}
    graph["fanin"] = set()  # it imports its public names lazily
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))

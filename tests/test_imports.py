"""Imports of the four packages run one way: never in a circle, never from a package to one that stands above it."""

import ast
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
BELOW = {"ylg": set(), "sagan_base": {"ylg"}, "ablations": {"sagan_base", "ylg"}, "analysis": {"sagan_base", "ylg"}}


def imports(root: Path) -> nx.DiGraph:
    """Which module of the four packages imports which, wherever in a file: in functions and under conditions too."""
    files = {}
    for file in sorted(file for package in BELOW for file in (root / package).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph = nx.DiGraph()
    graph.add_nodes_from(files)
    for module, file in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: imports are absolute here"
                members = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [member if member in files else node.module for member in members]
            else:
                continue
            graph.add_edges_from((module, target) for target in targets if target in files)
    return graph


def circles(graph: nx.DiGraph) -> list[list[str]]:
    loops = [module for module in graph if graph.has_edge(module, module)]
    return [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1] + [loops] * bool(loops)


def arrows_up(graph: nx.DiGraph) -> list[tuple[str, str]]:
    packages = [(a, b, a.split(".")[0], b.split(".")[0]) for a, b in graph.edges]
    return [(a, b) for a, b, above, below in packages if above != below and below not in BELOW[above]]


def test_no_imports_run_in_a_circle():
    assert circles(imports(ROOT)) == []


def test_no_import_runs_up_or_sideways_between_packages():
    assert arrows_up(imports(ROOT)) == []


@pytest.mark.parametrize("where", ["", "def late():\n    ", "if True:\n    "])
def test_a_circle_and_an_arrow_up_are_seen_wherever_the_import_stands(tmp_path, where):
    for package in BELOW:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "ylg" / "low.py").write_text("from ylg import high\n")
    (tmp_path / "ylg" / "high.py").write_text(f"{where}from ylg.low import name\n{where}import analysis.page\n")
    (tmp_path / "analysis" / "page.py").write_text("import sagan_base, ylg.low\n")
    graph = imports(tmp_path)
    assert circles(graph) == [["analysis.page", "ylg.high", "ylg.low"]]
    assert arrows_up(graph) == [("ylg.high", "analysis.page")]

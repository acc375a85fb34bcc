"""Information flow: what a pattern can carry from its inputs to its outputs, as a yes or no, a graph, and a report.

The information flow graph has a vertex for every position in each of the layers V_0 ... V_p and an edge for every
True entry of a step. The paper asks that every input in V_0 reach every output in V_p (Daras et al.,
arXiv:1911.12287, section 3.1, after the graphs of Dimakis et al., arXiv:0803.0632). That alone is weak (a star does
it through one vertex), hence the report. Its measures, one function each, are in flow_measures.py, mixing.py and
grid_flow.py.

Edges point the way information goes: from the one that is attended to, to the one that attends. The paper draws them
the other way, from the one that attends, and still takes V_0 for the inputs. Read so, a path follows M_1 ... M_p where
the layer computes M_p ... M_1, and the verdicts change: ltr, whose first step gathers in the relays that its second
step asks, would end at relays and near neighbours only and lack full information, while in ``fixed`` late vertices
would reach early ones, which it can never hear. What an output of the layer depends on is the product M_p ... M_1.
"""

import math
from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np

from ylg import flow_measures as measures
from ylg import grid_flow, mixing
from ylg.masks import Masks, sparse_steps
from ylg.orders import Order, check_grid, grid_order, is_whole
from ylg.reach import count_pairs, reached, unreachable_pair


def has_full_information(masks: Masks) -> bool:
    """Whether every input reaches every output: whether the boolean product ``M_p ... M_1`` has no False entry.

    Args:
        masks: bool [p, n, n] (tensor or array) or p sparse bool [n, n], applied one after the other; ``M_1`` first.
            Heads work side by side: of a layer of ``head_masks`` ask ``masks.any(0, keepdim=True)``, once a layer.

    Raises:
        ValueError: masks that are not bool, or not square.
    """
    return unreachable_pair(sparse_steps(masks)) is None


def information_flow_graph(masks: Masks) -> nx.DiGraph:
    """The flow graph of a pattern, ready to draw with ``networkx.draw(graph, graph.nodes(data="pos"))``.

    Nodes are (layer, position), layer 0..p, with attributes ``layer``, ``position`` and ``pos`` (x, y: layers from
    left to right, position 0 on top). Edges run from (t - 1, j) to (t, i) for every True ``M_t[i, j]``, with the
    attribute ``step`` = t. The graph itself has ``num_steps`` and ``num_positions``.

    Raises:
        ValueError: masks that are not bool, or not square.
    """
    steps = sparse_steps(masks)
    n = steps[0].shape[0]
    graph = nx.DiGraph(num_steps=len(steps), num_positions=n)
    graph.add_nodes_from(
        ((layer, position), {"layer": layer, "position": position, "pos": (float(layer), -float(position))})
        for layer in range(len(steps) + 1)
        for position in range(n)
    )
    for t, step in enumerate(steps, start=1):
        rows, columns = (index.tolist() for index in step.nonzero())
        graph.add_edges_from((((t - 1, j), (t, i)) for i, j in zip(rows, columns, strict=True)), step=t)
    return graph


def flow_report(
    masks: Masks, grid: Sequence[int] | None = None, order: Order = "raster", stride: int | None = None
) -> dict[str, Any]:
    """What a pattern costs and what it can carry; with a grid also where it reaches on the image.

    Reported, not ranked: no number here is known to predict the quality of a trained network.

    Args:
        masks: bool [p, n, n] (tensor or array) or p sparse bool [n, n], applied one after the other; ``M_1`` first.
            Heads work side by side: see ``has_full_information``.
        grid: (rows, cols) with rows * cols = n, for the measures on the image.
        order: how positions are laid on the grid, see ``grid_order``: "raster" for masks over its row-major cells, as
            ``head_masks`` and patterns native to a grid have them; "manhattan" for a pattern in ESA order.
        stride: size of the blocks of consecutive positions; None is floor(sqrt n).

    Returns:
        Plain numbers, bools and lists, under these keys:

        * ``positions``, ``num_steps``, ``edges``, ``edges_per_step``;
        * ``edge_bound``: p n^(1 + 1/p), the edges of a regular pattern with full information; fewer are possible
          only with uneven degrees;
        * ``max_degree`` (entries of the fullest row of all steps), ``max_row_degree``, ``mean_row_degree``,
          ``max_column_degree``: one number for each step (the mean column degree equals that of the rows);
        * ``full_information``, ``unreachable_pairs`` (how many), ``unreachable_pair`` (the first, as (output,
          input), or None);
        * ``min_paths``, ``mean_paths``, ``max_paths``: paths between an input and an output (the two counts are exact
          ints up to 2^53, rounded floats beyond);
        * ``layers_parallel``, ``layers_sequential``: layers in a row until all pairs are joined, if a layer runs
          its steps side by side as heads, or one after the other; None for never;
        * ``flow_forward``, ``flow_backward``: maximum flow, unit vertices, from the first half of the inputs to the
          second half of the outputs, and from the second to the first;
        * ``congestion``: largest share of all paths through one vertex between the first and last layer;
        * ``second_singular_value``, ``second_eigenvalue`` (modulus) of the product of the row-normalised steps, and
          ``smallest_share``, n times its smallest entry;
        * with ``grid``: ``block_distance`` (mean distance between two cells of a block), ``neighbours_together``
          (share of touching cells that share a block), ``relays`` (positions that the last step hears from beyond
          a block; how many), ``relay_distance``, ``max_relay_distance`` (from a cell to the nearest relay, mean and
          largest; None without relays), ``step_distance`` (mean distance to the attended cells, for each step);
        * with ``grid`` also: ``flow_down``, ``flow_up``, ``flow_right``, ``flow_left``: maximum flow between halves;
          ``flow_corners``: from the top left quarter-by-quarter corner to the bottom right, back, from the top right
          to the bottom left, back; ``covered_3x3``, ``covered_5x5``: share of the cells round every cell that some
          step attends to; ``joined_by_one_layer``: share of all pairs that one layer joins whose heads run the steps
          side by side; ``congestion_bound`` (two steps: the least possible with as many edges); ``mixing_time`` and
          ``minimax_fidelity``, see mixing.py.

    Raises:
        ValueError: masks that are not bool or not square, a grid of another size, an unknown order, a stride out of
            1..n.
    """
    steps = sparse_steps(masks)
    n, p = steps[0].shape[0], len(steps)
    grid_order(1, n, order)  # a misspelt order is refused, with a grid or without
    stride = math.isqrt(n) if stride is None else stride
    if not is_whole(stride) or not 1 <= stride <= n:
        raise ValueError(f"stride={stride!r} must be between 1 and n={n}; leave it out for {math.isqrt(n)}")
    where = {} if grid is None else _report_on_grid(steps, grid, order, stride)
    row_degrees = [np.diff(step.indptr) for step in steps]
    joined = count_pairs(reached(steps))
    min_paths, mean_paths, max_paths = measures.path_counts(steps)
    halves = np.arange(n // 2), np.arange(n // 2, n)
    forward, backward = measures.flow_across(steps, *halves)
    return {
        "positions": n,
        "num_steps": p,
        "edges": sum(step.nnz for step in steps),
        "edges_per_step": [step.nnz for step in steps],
        "edge_bound": p * n ** (1 + 1 / p),
        "max_degree": max(int(degrees.max()) for degrees in row_degrees),
        "max_row_degree": [int(degrees.max()) for degrees in row_degrees],
        "mean_row_degree": [float(degrees.mean()) for degrees in row_degrees],
        "max_column_degree": [int(np.bincount(step.indices, minlength=n).max()) for step in steps],
        "full_information": joined == n * n,
        "unreachable_pairs": n * n - joined,
        "unreachable_pair": unreachable_pair(steps),
        "min_paths": min_paths,
        "mean_paths": mean_paths,
        "max_paths": max_paths,
        "layers_parallel": measures.layers_until_full([measures.union(steps)]),
        "layers_sequential": measures.layers_until_full(steps),
        "flow_forward": forward,
        "flow_backward": backward,
        "congestion": measures.congestion(steps),
        "second_singular_value": mixing.second_singular_value(steps),
        "second_eigenvalue": mixing.second_eigenvalue(steps),
        "smallest_share": mixing.smallest_share(steps),
        **where,
    }


def _report_on_grid(steps: measures.Steps, grid: Sequence[int], order: Order, stride: int) -> dict[str, Any]:
    n = steps[0].shape[0]
    rows, cols = check_grid(grid, "grid")
    if rows * cols != n:
        raise ValueError(f"grid={(rows, cols)} has {rows * cols} cells, but the masks have n={n} positions")
    cells = grid_order(rows, cols, order).numpy()
    places = grid_flow.coordinates(cells, cols)
    relays = grid_flow.relays(steps, stride)
    distances = grid_flow.relay_distances(places, relays) if relays.size else None
    together = measures.union(steps)
    sides = grid_flow.flow_between_sides(steps, places, (rows, cols))
    return {
        "block_distance": grid_flow.block_distance(places, stride),
        "neighbours_together": grid_flow.neighbours_together(cells, (rows, cols), stride),
        "relays": len(relays),
        "relay_distance": None if distances is None else float(distances.mean()),
        "max_relay_distance": None if distances is None else float(distances.max()),
        "step_distance": [grid_flow.step_distance(step, places) for step in steps],
        **dict(zip(("flow_down", "flow_up", "flow_right", "flow_left"), sides, strict=True)),
        "flow_corners": list(grid_flow.flow_between_corners(steps, places, (rows, cols))),
        "covered_3x3": grid_flow.coverage(together, places, (rows, cols), 3),
        "covered_5x5": grid_flow.coverage(together, places, (rows, cols), 5),
        "joined_by_one_layer": together.nnz / n**2,
        "congestion_bound": measures.congestion_bound(steps),
        "mixing_time": mixing.mixing_time(steps),
        "minimax_fidelity": mixing.minimax_fidelity(steps),
    }

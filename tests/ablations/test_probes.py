"""Probes: the tasks ask what they say, predictions follow from masks, runs are kept, and full information shows."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

import ylg
from ablations import probe_rows, probes
from ablations.probe_rows import NAMED, RANDOM, predictions
from ablations.probe_run import run
from ablations.probe_tasks import COLOURS, MARK, SWAPS, TASKS, score

ROWS = {row.name: row for row in NAMED + RANDOM}
GRID = (8, 8)


@pytest.fixture(scope="module")
def forecast():
    return predictions(NAMED + RANDOM, GRID).set_index(["row", "task"])["predicted"]


@pytest.mark.parametrize("task", TASKS)
def test_a_picture_has_a_colour_in_every_cell_and_its_answer_follows_from_it(task):
    random = torch.Generator().manual_seed(0)
    pictures, shares = TASKS[task]((4, 6), 3, random)
    assert (pictures[:, :COLOURS].sum(1) == 1).all() and shares.sum(1).allclose(torch.ones(3, 4, 6))
    assert pictures[:, COLOURS].sum((1, 2)).tolist() == [MARK if task == "find" else 0.0] * 3
    colours = pictures[:, :COLOURS].argmax(1)
    for b in range(3):
        for r in range(4):
            for c in range(6):
                if task == "near":
                    near = colours[b, max(r - 2, 0) : r + 3, max(c - 2, 0) : c + 3].flatten()
                    expected = torch.bincount(near, minlength=COLOURS) / len(near)
                else:
                    there = {
                        "find": divmod(int(pictures[b, COLOURS].argmax()), 6),
                        "swap_half": ((r + 2) % 4, (c + 3) % 6),
                        "swap_odd": ((r - 1) % 4, (c - 2) % 6),
                        "swap_reflect": (3 - r, 5 - c),
                    }[task]
                    expected = torch.eye(COLOURS)[colours[b][there]]
                assert torch.allclose(shares[b, :, r, c], expected)


def test_the_score_counts_right_cells_and_explained_variance():
    shares = torch.eye(COLOURS)[torch.tensor([[[0, 1], [2, 3]]])].permute(0, 3, 1, 2)
    logits = shares.clone()
    logits[0, :, 0, 0] = torch.eye(COLOURS)[7]
    assert score("find", logits, shares) == 0.75
    _, near = TASKS["near"]((4, 4), 64, torch.Generator().manual_seed(0))
    assert score("near", near.log().clamp(min=-50), near) == pytest.approx(1)
    assert score("near", near.mean(0, keepdim=True).expand_as(near).log(), near) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("row", "find"),
    [("fixed, ESA", 0.569), ("strided_original, ESA", 0.952), ("star", 1), ("ltr_rtl, ESA", 1), ("interlaced8", 1)],
)
def test_find_is_predicted_from_the_pairs_that_a_path_joins(forecast, row, find):
    assert round(forecast[row, "find"], 3) == find


def test_predictions_of_a_random_pattern_agree_with_networkx(forecast):
    steps = ylg.step_masks(ROWS["random 7"].pattern, GRID)
    graph = ylg.information_flow_graph(steps)
    joined = {(i, j) for j in range(64) for i in range(64) if nx.has_path(graph, (0, j), (2, i))}
    assert all((i, i) in joined for i in range(64))
    share = len(joined) / 64**2
    assert forecast["random 7", "find"] == pytest.approx(share + (1 - share) / 8, abs=1e-4)
    report = ylg.flow_report(steps, GRID, "raster")
    flow = min(report[f"flow_{way}"] for way in ("down", "up", "right", "left")) / 32
    for task, elsewhere in SWAPS.items():
        source = elsewhere(torch.arange(64).reshape(GRID)).flatten().tolist()
        assert sorted(source) == list(range(64))  # every cell is named once
        carried = min(flow, np.mean([(i, source[i]) in joined for i in range(64)]))
        assert forecast["random 7", task] == pytest.approx(carried + (1 - carried) / 8, abs=1e-4)
    assert forecast["random 7", "near"] == pytest.approx(report["covered_5x5"], abs=1e-4)


def test_the_rows_span_reach_and_flow_and_are_the_same_in_every_process(forecast):
    random = forecast[[row.name for row in RANDOM]].unstack()
    assert random["find"].min() < 0.25 and random["find"].max() > 0.9
    assert random["swap_half"].min() < 0.3 and random["swap_half"].max() > 0.9
    again = probe_rows.random_steps(3, GRID, GRID)
    assert (again == probe_rows.random_steps(3, GRID, GRID)).all() and len(RANDOM) == 20 and len(NAMED) == 15


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of results, two short parts, and runs that only count themselves."""
    calls = []

    def quick(row, task, grid, seed, steps):
        assert (tmp_path / "predictions.csv").exists()
        calls.append((row.name, task, grid, seed))
        return {"score": 0.5 + seed / 10, "seconds": 0.1}

    monkeypatch.setattr(probes, "PARTS", {"a": ((4, 4), NAMED[:4]), "b": ((6, 6), NAMED[:2])})
    monkeypatch.setattr(probes, "run", quick)
    return tmp_path, calls


def test_finished_runs_are_not_repeated_and_the_table_comes_from_the_raw_results(folder, capsys):
    out, calls = folder
    probes.main(["--part", "a", "--task", "find", "--seeds", "3", "5", "--out", str(out)])
    assert len(calls) == 4 * 2
    assert calls[0] == ("dense", "find", (4, 4), 3) and calls[1] == ("dense", "find", (4, 4), 5)
    probes.main(["--task", "find", "--seeds", "3", "5", "--out", str(out)])
    assert len(calls) == 4 * 2 + 2 * 2 and len(set(calls)) == len(calls)
    table = (out / "table.md").read_text()
    (out / "table.md").unlink()
    probes.main(["--table", "--out", str(out)])
    assert (out / "table.md").read_text() == table and (out / "probes.png").stat().st_size > 5000
    assert len(calls) == 4 * 2 + 2 * 2 and "rank correlation" in capsys.readouterr().out
    probes.main(["--row", "dense", "--part", "a", "--task", "near", "--seeds", "3", "--out", str(out)])
    assert calls[12:] == [("dense", "near", (4, 4), 3)]


def test_predictions_are_written_before_the_first_run_and_must_stay(folder, capsys):
    out, calls = folder
    with pytest.raises(SystemExit):
        probes.main(["--table", "--out", str(out)])  # there is nothing yet
    assert not calls and not (out / "runs.csv").exists()
    frame = pd.read_csv(out / "predictions.csv")
    assert set(frame["part"]) == {"a", "b"} and len(frame) == (4 + 2) * len(TASKS)
    frame.assign(predicted=frame["predicted"] + 0.1).to_csv(out / "predictions.csv", index=False)
    with pytest.raises(SystemExit) as stop:
        probes.main(["--out", str(out)])
    assert stop.value.code == 2 and "other predictions" in capsys.readouterr().err and not calls


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--table"], "holds no finished run"),
        (["--seeds", "3", "-1"], "-1 is too small"),
        (["--steps", "0"], "0 is too small"),
    ],
)
def test_a_mistake_is_one_line(folder, options, words, capsys):
    with pytest.raises(SystemExit) as stop:
        probes.main([*options, "--out", str(folder[0])])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and error.count("\n") == 1


def test_rank_correlation_is_of_prediction_and_mean_score():
    names = [f"row {i}" for i in range(6)]
    forecast = pd.DataFrame({"part": "a", "grid": "8x8", "row": names, "task": "find", "predicted": np.arange(6) / 6})
    lines = [
        {"part": "a", "row": name, "task": "find", "seed": seed, "score": i / 10 + seed / 100, "seconds": 1.0}
        for i, name in enumerate(names)
        for seed in range(2)
    ]
    (line,) = probes.correlations(probes.comparison(forecast, pd.DataFrame(lines))).to_dict("records")
    assert line["rank correlation"] == pytest.approx(1) and line["rows"] == 6 and line["95% from"] > 0.9


def test_full_information_separates_rows_in_a_small_run():
    grid = (4, 4)
    full = run(ROWS["rotated_blocks"], "find", grid, 0, steps=300)["score"]
    causal = run(ROWS["fixed, ESA"], "find", grid, 0, steps=300)["score"]
    ideal = predictions((ROWS["fixed, ESA"],), grid).set_index("task")["predicted"]["find"]
    assert causal <= ideal + 0.05 < full
    assert run(ROWS["fixed, ESA"], "find", grid, 0, steps=20) != run(ROWS["fixed, ESA"], "find", grid, 1, steps=20)

"""The command line: what it makes of its options, and what it refuses in one line before any work."""

import subprocess
import sys

import pytest
import torch

from ablations import run, series
from ablations.contrasts import CONTRASTS, FIRST_SEED, OTHER_SEEDS, ROWS_OF_CONTRASTS, SEEDS
from ablations.presets import PRESETS
from ablations.rows import PAPER_ROWS, ROWS, TABLE_ROWS


def asked(*options: str) -> run.Request:
    return run.request(run.parser().parse_args(options))


def rows(*options: str) -> tuple:
    return tuple(run.row for run in asked(*options).runs)


def test_the_readmes_command_is_exactly_the_papers_ylg_row_on_digits():
    request = asked("--pattern", "ltr_rtl", "--esa")
    assert [(run.row, run.seed) for run in request.runs] == [(ROWS["ylg"], 0)]
    assert request.setting.preset is PRESETS["digits"] and request.setting.recipe == "paper"
    assert str(request.out) == "runs/ablation"


def test_recipe_and_precision_belong_to_the_preset():
    request = asked("--all", "--preset", "cifar10-small")
    assert (request.setting.recipe, request.setting.precision) == ("biggan", "bfloat16")
    assert str(request.out) == "runs/ablation-cifar10-small"
    asked_for = asked("--all", "--preset", "cifar10-small", "--recipe", "paper", "--precision", "float32")
    assert (asked_for.setting.recipe, asked_for.setting.precision) == ("paper", "float32")
    assert str(asked_for.out) == "runs/ablation-cifar10-small-paper-float32"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("--pattern dense --heads 1", "sagan"),
        ("--pattern dense", "sagan_8"),
        ("--pattern dense --esa", "sagan_8"),
        ("--pattern ltr_rtl", "ylg_no_esa"),
        ("--pattern ltr_rtl --order manhattan", "ylg"),
        ("--pattern strided_original --esa", "ylg_strided"),
        ("--pattern ltr_rtl --esa --alignment pool --qk-norm", "ylg_attending"),
        ("--pattern ltr_rtl --order hilbert", "ylg_hilbert"),
        ("--pattern strided --esa", "ylg_strided_repaired"),
        ("--pattern ltr_rtl --esa --alignment pool", "ylg_pool"),
        ("--pattern ltr_rtl --esa --mode sequential", "ylg_sequential"),
        ("--pattern ltr_rtl --order hilbert --alignment pool --qk-norm", "ylg_hilbert_attending"),
        ("--pattern ltr_rtl --esa --alignment pool --mode sequential --qk-norm", "ylg_sequential_attending"),
        ("--pattern interlaced8 --alignment pool --qk-norm", "interlaced8"),
    ],
)
def test_options_that_describe_a_row_are_that_row(options, name):
    assert rows(*options.split()) == (ROWS[name],)


def test_all_is_the_papers_table_and_extended_adds_the_rest():
    assert rows("--all") == PAPER_ROWS
    assert rows("--all", "--extended") == rows("--extended") == tuple(ROWS.values())
    assert rows("--rows", "ylg", "sagan", "ylg") == (ROWS["ylg"], ROWS["sagan"])
    assert {row.name for row in rows("--contrasts")} == {name for c in CONTRASTS for name in (c.row, c.other)}


def test_the_table_is_balanced_at_any_time_and_reuses_no_seed_that_chose_something():
    runs = [(run.row.name, run.seed) for run in asked("--table").runs]
    assert len(set(runs)) == len(runs) and min(seed for _, seed in runs) == FIRST_SEED
    for row in (row.name for row in TABLE_ROWS):
        seeds = SEEDS if row in ROWS_OF_CONTRASTS else OTHER_SEEDS
        assert [seed for name, seed in runs if name == row] == list(range(FIRST_SEED, FIRST_SEED + seeds))
    assert [seed for _, seed in runs] == sorted(seed for _, seed in runs)  # every row of a seed before the next


def test_seeds_counts_from_zero_and_every_row_runs_before_the_next_seed():
    request = asked("--rows", "sagan", "ylg", "--seeds", "2")
    assert [run.name for run in request.runs] == ["sagan-seed0", "ylg-seed0", "sagan-seed1", "ylg-seed1"]
    assert {run.seed for run in asked("--all", "--seed", "7").runs} == {7}


def test_settings_that_differ_have_folders_that_differ(tmp_path):
    options = ["", "--steps 50", "--recipe biggan", "--preset cifar10", f"--data folder:{tmp_path}", "--data cifar10"]
    options += ["--features efficientnet", "--steps 50 --recipe biggan", "--precision bfloat16"]
    folders = [asked("--all", *text.split()).out for text in options]
    assert len(set(folders)) == len(options)
    assert str(asked("--all", "--steps", "50").out) == "runs/ablation-50-steps"
    assert str(asked("--all", "--data", "folder:/a/cats").out) == "runs/ablation-on-cats"


def test_inception_weights_add_its_figures_to_those_of_the_preset(tmp_path):
    request = asked("--all", "--inception-weights", "weights.pth")
    assert request.setting.features == ("classifier", "inception")
    assert str(request.weights["inception"]) == "weights.pth"


MISTAKES = [
    ("", "nothing to run; give --pattern ltr_rtl --esa, --all, or --rows NAME"),
    ("--pattern spiral", "unknown pattern 'spiral'"),
    ("--pattern ltr_rtl --heads 6", "6 heads do not fit 'ltr_rtl'"),
    ("--pattern ltr_rtl --heads 0", "0 is too small; use 1 or more"),
    ("--pattern crossed --esa", "crossed lies on the grid itself and takes no order; leave --esa out"),
    ("--pattern window_lattice --order hilbert", "takes no order; leave --order hilbert out"),
    ("--all --pattern dense", "--pattern and --all exclude each other"),
    ("--all --alignment pool", "--alignment describe the single row of --pattern"),
    ("--rows ylgg", "no row is called 'ylgg'; the rows are sagan,"),
    ("--all --preset digit", "preset 'digit' is unknown; use one of digits,"),
    ("--all --recipe gan", "--recipe: invalid choice: 'gan'"),
    ("--all --data nothing", "unknown data set 'nothing'"),
    ("--all --data folder:/nowhere", "/nowhere"),
    ("--all --preset imagenet128", "give --data imagenet:PATH"),
    ("--all --steps 0", "0 is too small; use 1 or more"),
    ("--all --seeds 0", "0 is too small; use 1 or more"),
    ("--all --seed 1 --seeds 2", "not allowed with"),
    ("--table --seeds 2", "--table has seeds of its own"),
    ("--table --contrasts", "--contrasts and --table exclude each other"),
    ("--power /nowhere", "/nowhere holds no row of a contrast with two seeds; make a pilot of"),
    ("--pattern ltr --esa --order hilbert", "not allowed with"),
    ("--all --format slurm", "add --list"),
    ("--pattern dense --list --format slurm --heads 4", "this combination has none"),
    ("--all --inception-weights /nowhere.pth", "/nowhere.pth"),
    ("--all --device tpu", "--device tpu cannot be used"),
    ("--all --stepps 3", "there is no option --stepps; near it: --steps"),
]


@pytest.mark.parametrize(("options", "words"), MISTAKES, ids=[options or "nothing" for options, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2_before_anything_is_written(
    options, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(series, "run_experiment", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as stop:
        run.main(options.split())
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert words in said.err and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert not list(tmp_path.rglob("*-seed*"))


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        run.main(["--rows", "sagan", "--out", str(tmp_path / "file")])
    assert stop.value.code == 2 and "file" in capsys.readouterr().err


def test_runs_of_another_setting_in_the_folder_are_refused_before_training(canned_run, tmp_path, monkeypatch, capsys):
    canned_run("sagan")
    monkeypatch.setattr(series, "run_experiment", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as stop:
        run.main(["--rows", "ylg", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "cannot stand in one table" in said and said.count("\n") == 1


@pytest.mark.parametrize(("variables", "expected"), [({}, 1), ({"OMP_NUM_THREADS": "3"}, 2)])
def test_the_digits_preset_runs_on_one_thread_unless_told_otherwise(variables, expected, tmp_path, monkeypatch):
    seen = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(series, "run_series", lambda *_: seen.append(torch.get_num_threads()) or 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run.main(["--pattern", "ltr_rtl", "--esa", "--out", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(before)
    assert seen == [expected]


def test_listing_imports_nothing_that_trains_measures_or_draws():
    heavy = "ablations.execute", "pandas", "torch_fidelity", "matplotlib", "sklearn", "torch._dynamo"
    program = f"import sys; from ablations.run import main; main(['--list']); print(set(sys.modules) & set({heavy}))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "set()"

"""What would run: the list of rows, the plan of single runs, and a Slurm job array that runs them."""

import argparse
import shlex
import textwrap
from pathlib import Path

from ablations.cost import duration, estimate
from ablations.experiment import Experiment, Setting
from ablations.records import read_record
from ablations.rows import Row
from ablations.sizes import parameter_counts
from sagan_base.checkpoint import CHECKPOINT_FOLDER, newest_step
from sagan_base.config import RunConfig


def listing(rows: tuple[Row, ...], setting: Setting, seeds: tuple[int, ...]) -> str:
    """One paragraph a row: name, question, what was found, size, estimated time and memory."""
    preset, total = setting.preset, 0.0
    blocks = []
    width = max(22, 2 + max(len(row.name) for row in rows))
    for row in rows:
        config = Experiment(row, setting, 0).config()
        cost = estimate(config)
        total += cost.seconds * len(seeds)
        published = row.published
        figures = f"; FID {published.fid_text}, IS {published.inception_score_text}" if published else ""
        blocks.append(
            "\n".join(
                [
                    f"{row.name:<{width}}{_network(config)}",
                    f"    asks:  {row.question}",
                    f"    found: {row.found}{figures}",
                    f"    costs: {sum(parameter_counts(config)) / 1e6:.2f}M parameters; about {cost} a run",
                ]
            )
        )
    number = len(rows) * len(seeds)
    head = f"preset {preset.name}: {preset.description}\n{_setting(setting)}"
    foot = (
        f"{len(rows)} rows x {len(seeds)} seed{'s' * (len(seeds) > 1)} = {number} runs, about {duration(total)} on "
        "this machine one after the other, without evaluations (estimated; within a factor of two)"
    )
    if any(row.published and row.published.unconfirmed for row in rows):
        foot += "\n* not confirmed from a source at hand"
    return "\n\n".join([head, *blocks, foot])


def plan(runs: list[Experiment], out: Path) -> str:
    """One line a run: whether it is finished, goes on, or is new; what it costs; where it goes."""
    lines, total = [_setting(runs[0].setting), ""], 0.0
    width = max(30, 2 + max(len(run.name) for run in runs))
    for run in runs:
        cost = estimate(run.config())
        state, share = _state(run, out / run.name)
        total += cost.seconds * share
        lines.append(f"{run.name:<{width}}{state:<18}about {cost}   -> {out / run.name}")
    lines += ["", f"{len(runs)} runs, about {duration(total)} left on this machine, without evaluations (estimated)"]
    return "\n".join(lines)


def _state(run: Experiment, folder: Path) -> tuple[str, float]:
    """What would happen to this run, and the share of its steps still to do."""
    steps = run.setting.steps
    record = read_record(folder)
    if record is not None and record.setting["steps"] == steps:
        same = record.setting["features"] == list(run.setting.features)
        return ("finished" if same else "measured again"), 0.0
    done = newest_step(folder / CHECKPOINT_FOLDER)
    if not done:
        return "new", 1.0
    if done > steps:
        return f"has {done:,} steps", 0.0
    return f"goes on at {done:,}", max(0.0, 1 - done / steps)


def _setting(setting: Setting) -> str:
    recipe = setting.preset.recipe(setting.recipe)
    return (
        f"data {setting.data}, {setting.steps:,} steps, recipe {setting.recipe}: batch {recipe.batch_size}, learning "
        f"rates {recipe.generator_lr:g} and {recipe.discriminator_lr:g}, betas {recipe.betas}, EMA {recipe.ema_decay:g}"
    )


def _network(config: RunConfig) -> str:
    attention = config.model.attention
    if attention is None:
        return "no attention"
    sides = "+".join(map(str, config.model.generator_attention))
    heads = f"{attention.num_heads} head{'s' * (attention.num_heads > 1)} at {sides}x{sides}"
    if attention.pattern == "dense":
        return f"dense, {heads}"
    chained = ", steps in sequence" * (attention.mode == "sequential")
    return f"{attention.pattern}, {attention.order} order, {heads}, alignment {attention.alignment}{chained}"


def slurm_script(runs: list[Experiment], out: Path, options: argparse.Namespace) -> str:
    """A job array with one task a run; rows that ran out of time go on when it is submitted again."""
    same = ["--preset", options.preset, "--recipe", options.recipe, "--out", str(out.absolute())]
    for name in ("data", "steps", "inception_weights", "device"):
        if (value := getattr(options, name)) is not None:
            same += [f"--{name.replace('_', '-')}", str(value)]
    if options.features:
        same += ["--features", *options.features]
    if runs[0].row.question == "asked for on the command line":
        raise ValueError("--format slurm writes rows by name; this combination has none, so give --rows or --all")
    return textwrap.dedent(
        """\
        #!/bin/bash
        #SBATCH --job-name=ablation
        #SBATCH --array=0-{last}
        #SBATCH --gpus=1
        #SBATCH --cpus-per-task=8
        #SBATCH --time=24:00:00
        #SBATCH --requeue
        #SBATCH --signal=TERM@120
        #SBATCH --output=ablation-%A-%a.log
        # One task a run. A stopped run writes a checkpoint: submit the same script again to go on; finished runs are
        # skipped. For many GPUs a row, ask for them above and put `torchrun --nproc-per-node N` in place of python.
        cd {here}
        ROWS=({rows})
        SEEDS=({seeds})
        TASK=$SLURM_ARRAY_TASK_ID
        exec python {script} --rows "${{ROWS[$TASK]}}" --seed "${{SEEDS[$TASK]}}" \\
            {same}"""
    ).format(
        last=len(runs) - 1,
        here=shlex.quote(str(Path.cwd())),
        script=shlex.quote(str(Path(__file__).resolve().with_name("run.py"))),
        rows=" ".join(run.row.name for run in runs),
        seeds=" ".join(str(run.seed) for run in runs),
        same=shlex.join(same),
    )

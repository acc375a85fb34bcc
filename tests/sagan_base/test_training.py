"""The training engine: what a run leaves behind, when it stops, what is made up."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from PIL import Image

from sagan_base.checkpoint import checkpoint_files, checkpoint_path, load_checkpoint, read_checkpoint
from sagan_base.config import NumericsConfig
from sagan_base.distributed import Processes
from sagan_base.draws import labels, latents, stream
from sagan_base.run_folder import RunLog, log_lines, read_metrics
from sagan_base.sampling import preview, preview_inputs
from sagan_base.stopping import COLLAPSED_STEPS, Health
from sagan_base.training import TrainingInterrupted, TrainingRun, TrainingStopped, train
from sagan_base.updates import LOSSES, Updates

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


def test_an_unconditional_network_trains_on_labelled_data(tiny_config, tiny_data, tmp_path):
    config = tiny_config(steps=1)
    config = replace(config, model=replace(config.model, num_classes=1))
    assert train(config, tiny_data, tmp_path, progress=False).generator.num_classes == 1


def test_a_batch_that_does_not_divide_is_refused(tiny_config, tiny_data, tmp_path):
    with pytest.raises(ValueError, match=r"batch_size=8 does not divide into accumulation=3 .* use a multiple of 3"):
        train(tiny_config(accumulation=3), tiny_data, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_data_of_another_size_or_other_classes_is_refused(tiny_config, tiny_data, tmp_path):
    config = tiny_config()
    with pytest.raises(ValueError, match="the network makes 3-channel images of side 16, but 'noise' has 1 channels"):
        train(replace(config, model=replace(config.model, image_channels=3)), tiny_data, tmp_path)
    with pytest.raises(ValueError, match="num_classes=5, but 'noise' has 3 classes; use 3, or 1"):
        train(replace(config, model=replace(config.model, num_classes=5)), tiny_data, tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_config, tiny_data):
    out = tmp_path_factory.mktemp("finished") / "run"
    seen = []

    def evaluate(generator, step):
        assert not generator.training
        seen.append(step)
        return {"FD (noise)": 100.0 - step}

    config = tiny_config(steps=6, log_every=2, sample_every=4, metrics_every=3, keep_checkpoints=2)
    return train(config, tiny_data, out, evaluate, progress=False), seen, config


def test_a_run_leaves_its_record_logs_samples_checkpoints_and_model(finished):
    result, seen, config = finished
    names = {str(path.relative_to(result.out)) for path in result.out.rglob("*") if path.is_file()}
    assert {n for n in names if not n.startswith("tensorboard")} == {
        "config.json",
        "metrics.jsonl",
        "samples.png",
        "samples/step_00000004.png",
        "samples/step_00000006.png",
        "samples/step_00000004_maps.npz",
        "samples/step_00000006_maps.npz",
        "checkpoints/step_00000004.safetensors",
        "checkpoints/step_00000006.safetensors",
        "model.safetensors",
        "best.safetensors",
    }
    assert len([n for n in names if n.startswith("tensorboard/events.out.tfevents")]) == 1
    assert seen == [3, 6]
    record = json.loads((result.out / "config.json").read_text())
    assert record["config"] == config.to_dict() and record["seed"] == 0
    (session,) = record["sessions"]
    assert session["from_step"] == 0 and torch.__version__.startswith(session["versions"]["torch"].split("+")[0])
    assert {"command", "git", "machine", "seed", "started", "versions"} <= session.keys()


def test_a_damaged_model_file_is_exported_again_from_the_checkpoint(tiny_config, tiny_data, tmp_path):
    config = tiny_config(steps=1)
    model = train(config, tiny_data, tmp_path / "run", progress=False).model
    whole = read_checkpoint(model.rename(tmp_path / "whole.safetensors"))
    model.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:100])
    again = train(config, tiny_data, tmp_path / "run", progress=False)
    found = read_checkpoint(again.model)
    assert again.resumed_from == 1 and found.info == whole.info
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_a_resumed_run_knows_its_time_its_last_good_checkpoint_and_its_health(tiny_config, tiny_data, tmp_path):
    first = TrainingRun(tiny_config(steps=2), tiny_data, tmp_path, ALONE, progress=False)
    result = first.train()
    resumed = TrainingRun(tiny_config(steps=4), tiny_data, tmp_path, ALONE, progress=False)
    assert resumed.step == 2 and resumed.seconds == result.seconds > 0
    assert resumed.last_good == result.checkpoint
    first.step, first.health = 3, Health(collapsed_since=1, windows=2)
    first._save()
    resumed = TrainingRun(tiny_config(steps=4), tiny_data, tmp_path, ALONE, progress=False)
    assert resumed.health.state() == {"collapsed_since": 1, "windows": 2}
    assert resumed.last_good == result.checkpoint  # not the one written since the collapse


def test_epochs_count_every_real_image_and_the_rate_is_that_of_the_window(tiny_config, tiny_data, tmp_path):
    config = tiny_config(steps=4, log_every=2, discriminator_steps=3)
    first, second = read_metrics(train(config, tiny_data, tmp_path, progress=False).out)
    assert [line["epoch"] for line in (first, second)] == pytest.approx([2 * 3 * 8 / 30, 4 * 3 * 8 / 30])
    assert first["images_per_second"] * first["seconds"] == pytest.approx(2 * 8)
    assert second["images_per_second"] * (second["seconds"] - first["seconds"]) == pytest.approx(2 * 8)


def test_the_sheet_shows_the_average_on_the_latents_of_the_seed(tiny_config, tiny_data, tmp_path):
    result = train(tiny_config(steps=1, seed=5), tiny_data, tmp_path, progress=False)
    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.tobytes() == preview(result.generator, 5).tobytes() != preview(result.generator, 0).tobytes()


def test_a_sheet_of_many_classes_shows_evenly_spaced_ones(tiny_config):
    _, labels = preview_inputs(0, num_classes=1000, latent_dim=2)
    assert labels[::8].tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


def test_the_log_holds_losses_gains_rate_and_metrics_of_each_window(finished):
    result, _, _ = finished
    lines = read_metrics(result.out)
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    for line in (lines[0], lines[2], lines[3]):
        assert set(LOSSES) | {"epoch", "images_per_second", "seconds"} <= line.keys()
        assert {"gain/generator.attention.8", "gain/discriminator.attention.8"} <= line.keys()
    assert lines[3]["FD (noise)"] == 94.0 and lines[3]["epoch"] == pytest.approx(6 * 8 / 30)
    assert result.metrics["FD (noise)"] == 94.0


def test_tensorboard_holds_the_same_values(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result, _, _ = finished
    board = EventAccumulator(str(result.out / "tensorboard")).Reload()
    logged = [(event.step, event.value) for event in board.Scalars("discriminator_loss")]
    lines = [line for line in read_metrics(result.out) if "discriminator_loss" in line]
    assert logged == [(line["step"], pytest.approx(line["discriminator_loss"])) for line in lines]


def test_the_sheet_has_a_row_per_class(finished):
    result, _, _ = finished
    with Image.open(result.out / "samples.png") as sheet:
        assert sheet.size == (8 * 18 + 2, 3 * 18 + 2) and sheet.mode == "L"


def test_a_logged_window_is_the_mean_of_its_steps(finished, tiny_data):
    result, _, config = finished
    updates = Updates(config, ALONE, tiny_data.batch, len(tiny_data))
    steps = torch.stack([updates.step(step) for step in range(1, 7)])
    for line in read_metrics(result.out):
        if "discriminator_loss" in line:
            expected = steps[line["step"] - 2 : line["step"]].mean(0)
            assert [line[name] for name in LOSSES] == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_exported_model_is_the_average_of_the_run(finished):
    result, _, config = finished
    generator, _, loaded = load_checkpoint(result.model)
    assert loaded == config
    expected = result.generator.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in generator.state_dict().items())
    assert read_checkpoint(result.model).info["class_names"] == ["zero", "one", "two"]


def test_a_finished_run_returns_at_once_and_writes_nothing(finished, tiny_data, monkeypatch):
    result, _, config = finished
    monkeypatch.setattr(Updates, "step", lambda *_: pytest.fail("a finished run was trained"))
    before = {path: path.stat().st_mtime_ns for path in result.out.rglob("*")}
    again = train(config, tiny_data, result.out, progress=False)
    assert again.steps == again.resumed_from == 6 and again.metrics == result.metrics
    assert {path: path.stat().st_mtime_ns for path in result.out.rglob("*")} == before


def test_fewer_steps_than_a_folder_holds_are_refused(finished, tiny_data):
    result, _, config = finished
    shorter = replace(config, training=replace(config.training, steps=5))
    with pytest.raises(ValueError, match="holds 6 steps, more than --steps 5; give 6 or more, or another --out"):
        train(shorter, tiny_data, result.out)


def test_the_folder_of_another_run_is_refused_by_the_fields_that_differ(finished, tiny_data):
    result, _, config = finished
    other = replace(config, recipe=replace(config.recipe, generator_lr=1e-3), data="digits")
    changed = replace(tiny_data, images=tiny_data.images.flip(0), fingerprint="")
    with pytest.raises(ValueError, match=r"data \('noise' there, 'digits' here\), recipe.generator_lr \(0.0001 there"):
        train(other, changed, result.out)
    with pytest.raises(ValueError, match=r"it differs in recipe.generator_lr \(0.0001 there"):
        train(other, tiny_data, result.out)
    with pytest.raises(ValueError, match="it differs in data fingerprint"):
        train(config, changed, result.out)
    again = train(replace(config, data="./noise"), tiny_data, result.out, progress=False)
    assert again.resumed_from == again.steps  # the same pictures under another path


@pytest.mark.parametrize("record", ["deleted", "edited"])
@pytest.mark.parametrize("other", ["seed", "data"])
def test_another_experiment_is_refused_by_the_checkpoint_whatever_became_of_its_record(
    tiny_config, tiny_data, tmp_path, record, other
):
    config = tiny_config(steps=2)
    train(config, tiny_data, tmp_path, progress=False)
    path = tmp_path / "config.json"
    if other == "seed":
        config, said = tiny_config(steps=4, seed=5), r"holds another run: .* training.seed \(0 there, 5 here"
    else:
        tiny_data, said = replace(tiny_data, images=tiny_data.images.flip(0), fingerprint=""), "data fingerprint"
    if record == "deleted":
        path.unlink()
    else:
        written = json.loads(path.read_text())
        written["config"]["training"]["seed"] = config.training.seed
        written["data"]["fingerprint"] = tiny_data.fingerprint
        path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=said):
        train(config, tiny_data, tmp_path, progress=False)


def test_a_copy_that_a_user_keeps_among_the_checkpoints_is_left_alone(tiny_config, tiny_data, tmp_path):
    train(tiny_config(steps=4), tiny_data, tmp_path, progress=False)
    folder = tmp_path / "checkpoints"
    copies = [folder / "step_best.safetensors", checkpoint_path(folder, 99)]
    for copy in copies:
        copy.write_bytes(checkpoint_path(folder, 2).read_bytes())
    assert train(tiny_config(steps=6), tiny_data, tmp_path, progress=False).resumed_from == 4
    assert all(copy.is_file() for copy in copies)


def test_weights_that_are_no_numbers_stop_the_run_and_keep_the_last_good_checkpoint(tiny_config, tiny_data, tmp_path):
    config = tiny_config(steps=8, checkpoint_every=2, log_every=1)
    step = Updates.step

    def poisoned(self, number):
        if number == 5:
            with torch.no_grad():
                next(self.generator.parameters()).fill_(float("nan"))
        return step(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updates, "step", poisoned)
        with pytest.raises(TrainingStopped) as stopped:
            train(config, tiny_data, tmp_path, progress=False)
    message = str(stopped.value)
    assert "stopped at step 5: the losses are no longer finite" in message and "Lower the learning rates" in message
    assert "step_00000004.safetensors" in message
    assert checkpoint_files(tmp_path / "checkpoints")[0].name == "step_00000004.safetensors"
    result = train(config, tiny_data, tmp_path, progress=False)  # without the poison, from the last good one
    assert result.resumed_from == 4 and result.steps == 8


def test_weights_that_are_no_numbers_are_not_saved_even_before_a_loss_shows_them(tiny_config, tiny_data, tmp_path):
    config = tiny_config(steps=4, checkpoint_every=2, log_every=100)
    step = Updates.step

    def poisoned(self, number):
        losses = step(self, number)
        if number == 4:
            with torch.no_grad():
                next(self.discriminator.parameters()).view(-1)[0] = float("inf")
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updates, "step", poisoned)
        with pytest.raises(TrainingStopped, match=r"weights are no longer finite at step 4.*step_00000002"):
            train(config, tiny_data, tmp_path, progress=False)
    assert [path.name for path in checkpoint_files(tmp_path / "checkpoints")] == ["step_00000002.safetensors"]


def averages(loss: float, real: float = 2.0, fake: float = -2.0) -> dict[str, float]:
    return dict(zip(LOSSES, (loss, 1.0, real, fake), strict=True))


@pytest.mark.parametrize(
    ("signs", "said"),
    [
        (averages(1e-5), "its hinge loss has stayed below 0.001"),
        (averages(2.0, 0.1, 0.1), "it has given real and generated images the same logits"),
    ],
)
def test_a_discriminator_that_tells_nothing_for_long_has_collapsed(signs, said):
    health = Health()
    assert health.problem(0, 50, averages(0.8)) is None
    verdicts = [health.problem(step, step + 50, signs) for step in range(50, 50 + COLLAPSED_STEPS, 50)]
    assert verdicts[:-1] == [None] * (len(verdicts) - 1)
    assert f"since step 50 {said}" in verdicts[-1] and "Lower" in verdicts[-1]


def test_a_short_time_of_collapse_is_none():
    health = Health()
    for start in range(0, 5 * COLLAPSED_STEPS, 50):
        assert health.problem(start, start + 50, averages(0.0 if start % 200 else 0.5)) is None


def test_the_count_of_collapsed_windows_survives_a_checkpoint():
    health, step = Health(), 0
    while health.problem(step, step + 50, averages(0.0)) is None:
        step += 50
        health = Health(**json.loads(json.dumps(health.state())))
    assert step + 50 == COLLAPSED_STEPS


def test_the_checkpoint_from_before_a_collapse_is_kept(tiny_config, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr("sagan_base.stopping.COLLAPSED_STEPS", 12)
    step = Updates.step
    monkeypatch.setattr(
        Updates, "step", lambda self, number: step(self, number) * torch.tensor([number <= 4, 1.0, 1.0, 1.0])
    )
    config = tiny_config(steps=100, checkpoint_every=2, keep_checkpoints=2)
    with pytest.raises(TrainingStopped, match=r"stopped at step 16: the discriminator has collapsed.*step_00000004"):
        train(config, tiny_data, tmp_path, progress=False)
    kept = [path.name for path in checkpoint_files(tmp_path / "checkpoints")]
    assert kept == ["step_00000014.safetensors", "step_00000012.safetensors", "step_00000004.safetensors"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_writes_a_checkpoint_and_says_how_to_go_on(
    tiny_config, tiny_data, tmp_path, monkeypatch, number, code
):
    step = Updates.step
    monkeypatch.setattr(
        Updates, "step", lambda self, n: (os.kill(os.getpid(), number) if n == 3 else None, step(self, n))[1]
    )
    before = signal.getsignal(number)
    config = tiny_config(steps=5, checkpoint_every=0)
    with pytest.raises(TrainingInterrupted, match=r"stopped at step 3 of 5.*The same command goes on") as interrupted:
        train(config, tiny_data, tmp_path, progress=False)
    assert interrupted.value.exit_code == code
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    assert train(config, tiny_data, tmp_path, progress=False).resumed_from == 3


def test_the_networks_of_the_lowest_distance_are_kept_and_a_resumed_run_remembers_it(tiny_config, tiny_data, tmp_path):
    distances = {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.5}
    config = tiny_config(steps=8, metrics_every=2, checkpoint_every=2, keep_checkpoints=9)

    def evaluate(generator, step):
        return {"FD (anything)": distances[step], "recall": 1.0}

    for steps in (6, 8):
        train(replace(config, training=replace(config.training, steps=steps)), tiny_data, tmp_path, evaluate, False)
        best = read_checkpoint(tmp_path / "best.safetensors")
        assert best.info["best"] == {"step": 4, "distance": 3.0}
    at_four = read_checkpoint(checkpoint_path(tmp_path / "checkpoints", 4))
    assert best.part("ema").keys() == at_four.part("ema").keys()
    assert all(torch.equal(value, at_four.part("ema")[name]) for name, value in best.part("ema").items())
    load_checkpoint(tmp_path / "best.safetensors")


def test_looking_at_the_maps_is_logged_and_changes_no_number(tiny_config, tiny_data, tmp_path):
    states = []
    for every in (1, 3):
        result = train(tiny_config(steps=3, log_every=every), tiny_data, tmp_path / str(every), progress=False)
        states.append(read_checkpoint(result.checkpoint).tensors)
        last = read_metrics(result.out)[-1]
        for measure in ("entropy", "variation", "between"):
            logged = [last[f"{measure}/{part}.attention.8"] for part in ("generator", "discriminator")]
            assert all(0 <= value <= 1 + 1e-9 for value in logged)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items() if "window" not in name)


def test_standing_statistics_are_those_of_the_average_and_change_nothing_that_is_trained(
    tiny_config, tiny_data, tmp_path
):
    """A run that measures them ends with the weights of one that does not, whenever it was saved in between."""
    states = {}
    for name, options in {"moving": {}, "standing": {"standing_statistics": 3}}.items():
        config = tiny_config(steps=4, checkpoint_every=1 if options else 4, ema_decay=0.5, **options)
        states[name] = read_checkpoint(train(config, tiny_data, tmp_path / name, progress=False).checkpoint)
    differing = {
        key
        for key, value in states["moving"].tensors.items()
        if not torch.equal(value, states["standing"].tensors[key])
    }
    assert differing and all(key.startswith("ema.") and "running_" in key for key in differing)
    generator, _, _ = load_checkpoint(tmp_path / "standing")
    source = stream(0, "statistics")
    batches = [(latents(source, 8, 8), labels(source, 8, 3)) for _ in range(3)]
    first = generator.blocks[0].norm1
    with torch.no_grad():
        maps = [generator.linear(z).unflatten(1, (-1, 4, 4)) for z, _ in batches]
    torch.testing.assert_close(first.running_mean, torch.stack([x.mean((0, 2, 3)) for x in maps]).mean(0))


def test_bfloat16_on_a_processor_without_it_is_said_once(tiny_config, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sagan_base.training.slow_bfloat16", lambda device: True)
    train(tiny_config(steps=2, precision="bfloat16"), tiny_data, tmp_path, progress=False)
    assert capsys.readouterr().out.count("no bfloat16 arithmetic") == 1
    train(tiny_config(steps=2), tiny_data, tmp_path / "other", progress=False)
    assert "bfloat16" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_few_hundred_steps_in_bfloat16_learn_what_those_in_float32_learn(tiny_config, tiny_data, tmp_path):
    """Not the same numbers: the same course. Means over the second half of each run, on the same draws."""
    means = {}
    for precision in ("float32", "bfloat16"):
        result = train(tiny_config(steps=300, precision=precision, log_every=150), tiny_data, tmp_path / precision,
                       progress=False)  # fmt: skip
        last = read_metrics(result.out)[-1]
        gap = last["discriminator_real"] - last["discriminator_fake"]
        means[precision] = torch.tensor([last["discriminator_loss"], gap])  # each logit alone wanders
        assert all(p.dtype == torch.float32 for p in result.generator.parameters())
    torch.testing.assert_close(means["bfloat16"], means["float32"], atol=0.1, rtol=0.15)
    assert not torch.equal(means["bfloat16"], means["float32"])


@pytest.mark.parametrize("failing", ["evaluation", "sheet"])
@pytest.mark.parametrize("at", [3, 4])  # in the middle, where no checkpoint is due, and at the end
def test_work_that_failed_is_made_up_and_the_run_ends_as_if_nothing_had_happened(
    tiny_config, tiny_data, tmp_path, monkeypatch, failing, at
):
    config = tiny_config(steps=4, checkpoint_every=0, metrics_every=1, sample_every=1)

    def evaluate(generator, step, healthy=True):
        if not healthy and step == at:
            raise RuntimeError("no space left")
        return {"FD (noise)": 100.0 - step}

    def failing_save(path, image):
        if path.stem == f"step_{at:08d}":
            raise RuntimeError("no space left")
        image.save(path)

    whole = train(config, tiny_data, tmp_path / "whole", evaluate, progress=False)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no space left"):
        if failing == "sheet":
            (tmp_path / "failed/samples").mkdir(parents=True)
            patch.setattr("sagan_base.training.save_image", failing_save)
        healthy = failing == "sheet"
        train(config, tiny_data, tmp_path / "failed", lambda g, n: evaluate(g, n, healthy), progress=False)
    made_up = train(config, tiny_data, tmp_path / "failed", evaluate, progress=False)
    timed = ("images_per_second", "seconds")
    ours, theirs = (
        [{k: v for k, v in line.items() if k not in timed} for line in log_lines(run.out)] for run in (made_up, whole)
    )
    assert ours == theirs
    for name in ("model.safetensors", "best.safetensors", f"checkpoints/{whole.checkpoint.name}"):
        ours, theirs = (read_checkpoint(run.out / name) for run in (made_up, whole))
        assert ours.info["best"] == theirs.info["best"] == {"step": 4, "distance": 96.0}
        assert all(torch.equal(value, theirs.tensors[key]) for key, value in ours.tensors.items())
    for name in ("samples.png", *(f"samples/step_{step:08d}.png" for step in (1, 2, 3, 4))):
        assert (made_up.out / name).read_bytes() == (whole.out / name).read_bytes()


def test_an_evaluation_asked_for_after_the_end_is_made_up_once(tiny_config, tiny_data, tmp_path):
    config, seen = tiny_config(steps=2), []

    def measured(name):
        return lambda generator, step: (seen.append(name), {name: 1.0})[1]

    train(config, tiny_data, tmp_path, progress=False)
    for name in ("FD (a)", "FD (a)", "FD (b)", "FD (b)"):
        result = train(config, tiny_data, tmp_path, measured(name), progress=False, evaluated_as=name)
    assert seen == ["FD (a)", "FD (b)"] and result.metrics["FD (a)"] == result.metrics["FD (b)"] == 1.0
    for name in ("samples.png", "config.json", "model.safetensors"):
        (tmp_path / name).unlink()
        train(config, tiny_data, tmp_path, progress=False)
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    "line", [b"{", b"\xff", b"5", b"{}", b'{"step": "3"}', b'{"step": 2, "x": "y"}', b"[" * 9999, b""]
)
def test_a_broken_line_of_the_log_costs_no_other(tiny_config, tiny_data, tmp_path, line, capsys):
    with RunLog(tmp_path, 0) as written:
        written.write(1, {"loss": 1.0})
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(log.read_bytes() + line + b'\n{"step": 2, "loss": 2.0}\n' + b'{"step": 3, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}]
    RunLog(tmp_path, 3).close()
    assert log.read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n'
    assert capsys.readouterr().out == f"warning: {log}: 1 broken line left out\n"


def test_steps_survive_an_evaluation_that_fails(tiny_config, tiny_data, tmp_path):
    def fails(generator, step):
        raise RuntimeError("no space for features")

    with pytest.raises(RuntimeError, match="no space for features"):
        train(tiny_config(steps=3, checkpoint_every=0), tiny_data, tmp_path, fails, progress=False)
    assert train(tiny_config(steps=3), tiny_data, tmp_path, progress=False).resumed_from == 3


def test_a_run_too_short_for_its_moving_statistics_is_warned_of(tiny_config, tiny_data, tmp_path, capsys):
    train(tiny_config(steps=2), tiny_data, tmp_path / "short", progress=False)
    assert "after 2 steps the moving statistics are still 100% their initial values" in capsys.readouterr().out
    train(tiny_config(steps=2, standing_statistics=2), tiny_data, tmp_path / "standing", progress=False)
    quick = tiny_config(steps=2, numerics=NumericsConfig(batch_norm_decay=0.2))
    train(quick, tiny_data, tmp_path / "quick", progress=False)
    assert "moving statistics" not in capsys.readouterr().out

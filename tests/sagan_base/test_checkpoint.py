"""Checkpoints are whole, or refused with a reason."""

import hashlib
import json
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import sagan_base
from sagan_base.checkpoint import (
    build_networks,
    checkpoint_files,
    checkpoint_path,
    export_model,
    latest_checkpoint,
    load_checkpoint,
    named_part,
    newest_step,
    read_checkpoint,
    remove_old_checkpoints,
    useless_files,
    write_checkpoint,
)
from sagan_base.distributed import Processes
from sagan_base.updates import Updates


@pytest.fixture
def written(tmp_path, tiny_config):
    """A checkpoint of initial networks, with one tensor that only training needs."""
    config = tiny_config()
    generator, discriminator = build_networks(config)
    trained = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    tensors = {
        **named_part("ema", generator.state_dict()),
        **named_part("discriminator", discriminator.state_dict()),
        **named_part("generator", trained),
    }
    path = checkpoint_path(tmp_path, 7)
    write_checkpoint(path, tensors, config, {"step": 7, "class_names": ["a", "b", "c"]})
    return path, tensors, config


def test_what_is_written_is_read(written):
    path, tensors, config = written
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == config and checkpoint.info["step"] == 7
    assert checkpoint.tensors.keys() == tensors.keys()
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in tensors.items())


def test_load_checkpoint_gives_the_averaged_generator_in_evaluation_mode(written):
    path, tensors, config = written
    changed = {name: tensor + 1 if name.startswith("generator.") else tensor for name, tensor in tensors.items()}
    write_checkpoint(path, changed, config, {"step": 7})
    generator, discriminator, loaded = sagan_base.load_checkpoint(path)
    assert loaded == config
    assert not generator.training and not discriminator.training
    expected = build_networks(config)[0].eval()
    z, labels = torch.randn(3, 8), torch.tensor([0, 1, 2])
    with torch.no_grad():
        assert torch.equal(generator(z, labels), expected(z, labels))
        assert discriminator(generator(z, labels), labels).shape == (3,)


def test_an_export_is_smaller_and_loads_alike(written, tmp_path):
    path, _, _ = written
    slim = export_model(tmp_path / "model.safetensors", path)
    assert slim.stat().st_size < path.stat().st_size
    assert not read_checkpoint(slim).part("generator")
    for ours, theirs in zip(load_checkpoint(slim)[:2], load_checkpoint(path)[:2], strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
        )


def test_loading_leaves_the_global_random_state_alone(written):
    state = torch.get_rng_state()
    load_checkpoint(written[0])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(written, share):
    path, _, _ = written
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"is not a checkpoint, or is truncated .* give a \.safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize("place", [0.3, 0.9, 1.0])
def test_a_flipped_bit_is_found(written, place):
    path, _, _ = written
    content = bytearray(path.read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    content[header + int(place * (len(content) - header - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its contents do not match its SHA-256"):
        load_checkpoint(path)


def test_changed_metadata_is_found(written):
    path, _, _ = written
    content = path.read_bytes()
    assert content.count(b'\\"step\\": 7') == 1
    path.write_bytes(content.replace(b'\\"step\\": 7', b'\\"step\\": 8'))
    with pytest.raises(ValueError, match="is damaged"):
        read_checkpoint(path)


def test_the_hash_is_that_of_names_shapes_and_bytes(tmp_path, tiny_config):
    values = torch.arange(6, dtype=torch.float32).view(2, 3)
    write_checkpoint(tmp_path / "x.safetensors", {"a.b": values}, tiny_config(), {"step": 1})
    content = (tmp_path / "x.safetensors").read_bytes()
    metadata = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]
    head = "".join(f"{key}={metadata[key]}\n" for key in ("format", "config", "info")) + "a.b torch.float32 (2, 3)\n"
    assert metadata["sha256"] == hashlib.sha256(head.encode() + values.numpy().tobytes()).hexdigest()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("no tensors here")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "text")
    with pytest.raises(ValueError, match="is a safetensors file, but no checkpoint of this version"):
        load_checkpoint(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="is not a file; give a checkpoint"):
        load_checkpoint(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"holds neither model\.safetensors nor a checkpoint"):
        load_checkpoint(tmp_path)


def test_weights_that_do_not_fit_the_configuration_are_refused(written):
    path, tensors, config = written
    tensors.pop(next(name for name in tensors if name.startswith("ema.")))
    write_checkpoint(path, tensors, config, {"step": 7})
    with pytest.raises(ValueError, match=r"does not fit the network of its own configuration: .*Missing key"):
        load_checkpoint(path)


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(written, tmp_path, capsys):
    path, tensors, config = written
    write_checkpoint(checkpoint_path(tmp_path, 9), tensors, config, {"step": 9})
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 9)
    newest = checkpoint_path(tmp_path, 9)
    newest.write_bytes(newest.read_bytes()[:-100])
    assert latest_checkpoint(tmp_path) == path
    said = capsys.readouterr().out.strip()
    assert said.count("\n") == 0
    assert "step_00000009.safetensors" in said and said.endswith("using the one before it, step_00000007.safetensors")


def test_only_the_newest_and_a_protected_checkpoint_are_kept(tmp_path):
    for step in (1, 2, 3, 10, 20):
        checkpoint_path(tmp_path, step).touch()
    remove_old_checkpoints(tmp_path, keep=2, protected=checkpoint_path(tmp_path, 2))
    assert checkpoint_files(tmp_path) == [checkpoint_path(tmp_path, step) for step in (20, 10, 2)]


def test_only_files_that_training_named_are_checkpoints_by_their_number(written, tmp_path):
    """A user's copies, exports and folders beside them are neither read, counted nor deleted."""
    path, tensors, config = written
    users = [tmp_path / f"step_{name}.safetensors" for name in ("best", "7", "000000009", "+0000009", "٠٠٠٠٠٠٠٩")]
    users += [checkpoint_path(tmp_path, 30), tmp_path / ".step_best.safetensors", tmp_path / "step_00000009.backup"]
    for copy in users:
        copy.write_bytes(path.read_bytes())
    export_model(checkpoint_path(tmp_path, 40), path)
    checkpoint_path(tmp_path, 50).mkdir()
    kept = {*users, checkpoint_path(tmp_path, 40), checkpoint_path(tmp_path, 50)}
    for step in (99_999_999, 100_000_000):
        write_checkpoint(checkpoint_path(tmp_path, step), tensors, config, {"step": step})
    assert checkpoint_files(tmp_path) == [checkpoint_path(tmp_path, step) for step in (100_000_000, 99_999_999, 7)]
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, newest_step(tmp_path))
    assert newest_step(tmp_path) == 100_000_000
    assert useless_files(tmp_path, 7) == checkpoint_files(tmp_path)[:2]
    remove_old_checkpoints(tmp_path, keep=1)
    assert set(tmp_path.iterdir()) == {*kept, checkpoint_path(tmp_path, 100_000_000)}


def test_the_file_is_plain_safetensors(written):
    path, tensors, _ = written
    assert load_file(path).keys() == tensors.keys()


def test_files_from_before_layers_named_their_masks_load_and_train_on(written, tiny_data):
    path, _, config = written
    updates = Updates(config, Processes(0, 1, torch.device("cpu")), tiny_data.batch, len(tiny_data))
    updates.step(1)
    state = updates.state()
    unnamed = {name: x for name, x in state.items() if not name.endswith("._extra_state")}
    assert len(state) - len(unnamed) == 3 * len(updates.generator.attention_layers())
    write_checkpoint(path, unnamed, config, {"step": 7})
    older = read_checkpoint(path)
    updates.load(older)
    updates.step(2)
    assert set(updates.state()) == set(state)
    generator, _, _ = load_checkpoint(path)
    assert any(name.endswith("_extra_state") for name in generator.state_dict())


def test_a_checkpoint_whose_layers_name_other_masks_is_refused_with_both(written, tiny_config):
    path, tensors, _ = written
    other = tiny_config()
    other = replace(other, model=replace(other.model, attention=replace(other.model.attention, order="raster")))
    write_checkpoint(path, tensors, other, {"step": 7})
    with pytest.raises(ValueError, match=r"order 'manhattan'.*order 'raster'"):
        load_checkpoint(path)

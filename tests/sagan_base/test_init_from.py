"""Starting from another run's weights: what is taken over, what is new, and that such a run resumes like any other."""

from dataclasses import replace

import pytest
import torch

from sagan_base.checkpoint import Checkpoint, build_networks, checkpoint_path, named_part, read_checkpoint
from sagan_base.config import AttentionConfig, ModelConfig, RunConfig
from sagan_base.init_from import Start
from sagan_base.network import model_config
from sagan_base.train import main
from sagan_base.training import train

SMALL = ModelConfig(
    resolution=16, image_channels=1, num_classes=3, latent_dim=4, generator_width=8, discriminator_width=8,
    generator_attention=(8,), discriminator_attention=(8,), attention=AttentionConfig(head_dim_qk=4, head_dim_v=4),
)  # fmt: skip
NAMES = ("cat", "dog", "owl")
NETWORKS = ("generator", "discriminator")


def start(model: ModelConfig = SMALL, class_names=NAMES, known=NAMES) -> Start:
    config = RunConfig(model)
    networks = dict(zip(NETWORKS, build_networks(config), strict=True))
    for network in networks.values():  # nothing at a value that every network starts with
        for parameter in network.parameters():
            parameter.data = torch.randn_like(parameter)
    tensors = {k: v for name, network in networks.items() for k, v in named_part(name, network.state_dict()).items()}
    return Start(Checkpoint(tensors, config, {"step": 7, "class_names": list(known)}, "0123456789abcdef"), class_names)


def filled(source: Start, **options):
    networks = build_networks(replace(RunConfig(model_config(SMALL, **options))))
    said = [source.fill(network, kind, (kind,)) for network, kind in zip(networks, NETWORKS, strict=True)]
    return *networks, said


def original(source: Start, kind: str):
    network = build_networks(source.checkpoint.config)[NETWORKS.index(kind)]
    network.load_state_dict(source.checkpoint.part(kind))
    return network.eval()


def test_the_same_network_is_taken_over_whole():
    source = start()
    *networks, said = filled(source)
    for network, kind in zip(networks, NETWORKS, strict=True):
        theirs = source.checkpoint.part(kind)
        assert all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items())
    assert all(line.endswith("new in nothing") for line in said)


def test_at_twice_the_resolution_the_inner_blocks_compute_the_same():
    source = start()
    options = {"generator_attention": (8,), "discriminator_attention": (8,)}
    generator, discriminator, said = filled(source, resolution=32, generator_width=4, discriminator_width=4, **options)
    z, labels = torch.randn(2, 4), torch.tensor([0, 2])
    maps = {}
    for name, network in (("small", original(source, "generator")), ("large", generator.eval())):
        network.blocks[1].register_forward_hook(lambda _, __, x, name=name: maps.update({name: x}))
        network(z, labels)
    torch.testing.assert_close(maps["large"], maps["small"])
    assert said[0].endswith("new in blocks.2, norm, to_image")
    small = original(source, "discriminator")
    features = torch.randn(2, 8, 8, 8)
    torch.testing.assert_close(discriminator.eval().blocks[2](features), small.blocks[1](features))
    torch.testing.assert_close(discriminator.linear.weight, small.linear.weight)
    assert said[1].endswith("new in blocks.0, blocks.1")  # of blocks.1 the part that read the image


def test_classes_keep_their_rows_by_name_and_a_new_one_has_the_mean():
    source = start(class_names=("owl", "cat", "fox", "bee"))
    generator, discriminator, _ = filled(source, num_classes=4)
    for kind, name, rows in (
        ("generator", "blocks.0.norm1.weight", generator.blocks[0].norm1.weight),
        ("discriminator", "embedding.parametrizations.weight.original",
         discriminator.embedding.parametrizations.weight.original),
    ):  # fmt: skip
        theirs = source.checkpoint.part(kind)[name]
        expected = torch.stack([theirs[2], theirs[0], theirs.mean(0), theirs.mean(0)])
        torch.testing.assert_close(rows.detach(), expected)


@pytest.mark.parametrize("known", [(), NAMES])
def test_classes_of_a_file_that_does_not_name_them_are_taken_in_their_order(known):
    source = start(class_names=NAMES, known=known)
    generator, _, _ = filled(source)
    assert torch.equal(generator.blocks[0].norm1.bias, source.checkpoint.part("generator")["blocks.0.norm1.bias"])


def test_an_unconditional_network_starts_at_the_mean_of_the_classes():
    source = start(class_names=NAMES)
    generator, discriminator, _ = filled(source, num_classes=1)
    theirs = source.checkpoint.part("generator")["blocks.1.norm2.weight"]
    torch.testing.assert_close(generator.blocks[1].norm2.weight.detach(), theirs.mean(0, keepdim=True))
    assert discriminator.embedding is None


def test_other_masks_take_the_weights_and_keep_their_name():
    source = start()
    generator, _, said = filled(source, pattern="strided", order="raster")
    assert generator.attention["8"].identity()["pattern"] == "strided"
    theirs = source.checkpoint.part("generator")["attention.8.query.parametrizations.weight.original"]
    assert torch.equal(generator.attention["8"].query.parametrizations.weight.original, theirs)
    assert said[0].endswith("new in nothing")


def test_networks_without_a_fitting_block_are_refused_with_the_width_that_fits():
    with pytest.raises(ValueError, match=r"no block of the generator fits.*16x16, width 8.*--generator-width 4"):
        filled(start(), resolution=32, generator_width=8)
    with pytest.raises(ValueError, match=r"no block of the discriminator fits.*leave --init-from out"):
        filled(start(replace(SMALL, discriminator_width=9)), resolution=32, generator_width=4)


@pytest.fixture
def source_run(tiny_config, tiny_data, tmp_path):
    return train(tiny_config(steps=2), tiny_data, tmp_path / "source", progress=False)


def test_such_a_run_resumes_bit_for_bit_and_is_another_run_than_one_from_scratch(
    tiny_config, tiny_data, source_run, tmp_path
):
    source = Start(read_checkpoint(source_run.checkpoint), tiny_data.class_names)
    config = replace(tiny_config(steps=4), init_from=str(source))
    whole = train(config, tiny_data, tmp_path / "whole", progress=False, start=source)
    half = replace(config, training=replace(config.training, steps=2))
    train(half, tiny_data, tmp_path / "halves", progress=False, start=source)
    both = train(config, tiny_data, tmp_path / "halves", progress=False, start=source)
    first, second = (read_checkpoint(run.checkpoint).tensors for run in (whole, both))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match=r"it differs in init_from \('.*SHA-256.*' there, None here\)"):
        train(tiny_config(steps=5), tiny_data, tmp_path / "halves", progress=False)
    with pytest.raises(ValueError, match="init_from=None, but the weights given as start are"):
        train(tiny_config(steps=5), tiny_data, tmp_path / "other", progress=False, start=source)


def test_the_command_says_what_it_starts_from(tmp_path, capsys):
    options = ["--data", "digits", "--resolution", "16", "--generator-width", "4", "--discriminator-width", "4",
               "--batch-size", "4", "--no-attention", "--latent-dim", "4"]  # fmt: skip
    assert main([*options, "--steps", "1", "--out", str(tmp_path / "a")]) == 0
    assert main([*options, "--steps", "1", "--seed", "5", "--out", str(tmp_path / "b"), "--init-from",
                 str(checkpoint_path(tmp_path / "a" / "checkpoints", 1))]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "starting from digits at step 1, SHA-256" in said and "tensors taken over; new in nothing" in said
    assert '"init_from": "digits at step 1, SHA-256' in (tmp_path / "b" / "config.json").read_text()
    with pytest.raises(SystemExit) as refused:
        main([*options, "--out", str(tmp_path / "c"), "--init-from", str(tmp_path / "nowhere")])
    assert refused.value.code == 2 and "nowhere is not a file" in capsys.readouterr().err

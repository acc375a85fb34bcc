"""Patterns: equal to their written definition, to the published masks, and to their claim of full information."""

import doctest
import math
import os
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

import ylg
from ylg import pattern_steps, patterns

OVER_POSITIONS = [name for name in patterns.pattern_names() if not ylg.pattern(name).on_grid]
CLAIMING = [*(name for name in OVER_POSITIONS if ylg.pattern(name).full_information), "butterfly3"]


def boolean_product(steps):
    """``M_p ... M_1`` by matrix products of counts: shares nothing with ylg.reach."""
    reach = np.eye(steps.shape[1], dtype=bool)
    for step in steps.numpy():
        reach = (step.astype(np.float64) @ reach.astype(np.float64)) > 0
    return reach


def by_definition(name, n, s):
    """The table of definitions, entry by entry."""
    last = {min((block + 1) * s, n) - 1 for block in range(-(-n // s))}
    first = set(range(0, n, s))

    def step_1(i, j):
        return {
            "ltr": i // s == j // s and j <= i,
            "rtl": i // s == j // s and j >= i,
            "fixed": i // s == j // s and j <= i,
            "strided": i - s < j <= i or (i >= n - s and j >= n - s),
        }[name]

    def step_2(i, j):
        return {
            "ltr": j in last or i == j,
            "rtl": j in first or i == j,
            "fixed": j <= i and (j in last or i == j),
            "strided": abs(i - j) % s == 0,
        }[name]

    return torch.tensor([[[step(i, j) for j in range(n)] for i in range(n)] for step in (step_1, step_2)])


@given(name=st.sampled_from(["ltr", "rtl", "fixed", "strided"]), n=st.integers(1, 40), data=st.data())
def test_steps_equal_their_definition_for_every_n_and_stride(name, n, data):
    stride = data.draw(st.none() | st.integers(1, n))
    steps = ylg.step_masks(name, n, stride)
    assert steps.dtype == torch.bool
    assert torch.equal(steps, by_definition(name, n, stride or math.isqrt(n)))


@pytest.mark.parametrize("name", CLAIMING)
def test_patterns_that_claim_full_information_have_it_for_every_n(name):
    for n in range(1, 71):
        assert boolean_product(ylg.step_masks(name, n)).all(), n


@given(name=st.sampled_from(CLAIMING), n=st.integers(1, 60), data=st.data())
def test_and_for_every_stride(name, n, data):
    assert boolean_product(ylg.step_masks(name, n, data.draw(st.integers(1, n)))).all()


@pytest.mark.parametrize("name", OVER_POSITIONS)
def test_every_pattern_is_defined_for_every_n(name):
    for n in range(2, 71):
        steps = ylg.step_masks(name, n)
        assert steps.shape == (ylg.pattern(name).num_steps, n, n) and steps.any(dim=2).all()
        assert all(
            torch.equal(torch.from_numpy(sparse.toarray()), dense) and sparse.indices.dtype == np.int32
            for sparse, dense in zip(ylg.sparse_step_masks(name, n), steps, strict=True)
        )


@pytest.mark.parametrize("n", [4, 16, 25, 64])
def test_one_entry_fewer_in_the_repaired_strided_pattern_loses_information(n):
    repaired = ylg.step_masks("strided", n)
    assert boolean_product(repaired).all()
    for i, j in torch.nonzero(repaired[0] & ~ylg.step_masks("strided_original", n)[0]).tolist():
        mutated = repaired.clone()
        mutated[0, i, j] = False
        assert not ylg.has_full_information(mutated)


@given(side=st.integers(1, 8), blocks=st.integers(1, 8))
def test_rtl_is_ltr_turned_round_where_the_blocks_are_whole(side, blocks):
    ltr, rtl = (ylg.step_masks(name, side * blocks, side) for name in ("ltr", "rtl"))
    assert torch.equal(rtl, ltr.flip(1, 2))
    assert torch.equal(rtl[0], ltr[0].T)


@given(n=st.integers(1, 300), p=st.integers(1, 4))
def test_a_butterfly_changes_one_digit_a_step_by_exactly_one_path(n, p):
    radices = pattern_steps.radices(n, p)
    assert n <= math.prod(radices) and (radices[-1] - 1) * math.prod(radices[:-1]) < n
    if math.prod(radices) > n:
        return
    digits = [tuple(i // math.prod(radices[:t]) % radices[t] for t in range(p)) for i in range(n)]
    for t, step in enumerate(ylg.sparse_step_masks(f"butterfly{p}", n)):
        rows, columns = step.nonzero()
        assert step.nnz == n * radices[t]
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
            assert digits[i][:t] + digits[i][t + 1 :] == digits[j][:t] + digits[j][t + 1 :]


def test_a_name_always_gives_the_same_pattern():
    assert all(ylg.pattern(name) == ylg.pattern(ylg.pattern(name)) for name in [*CLAIMING, "butterfly5"])


def test_butterfly_meets_the_edge_bound_exactly_at_256():
    steps = ylg.step_masks("butterfly", 256)
    assert int(steps.sum()) == 2 * 256**1.5
    i = torch.arange(256)
    assert torch.equal(steps[0], i[:, None] // 16 == i // 16)
    assert torch.equal(steps[1], i[:, None] % 16 == i % 16)


GOLDEN = {
    "ltr": ("LeftFloorMask", "LeftRepetitiveMask"),
    "rtl": ("RightFloorMask", "RightRepetitiveMask"),
    "strided": ("StridedMask1", "StridedMask2"),
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("n", [9, 12, 16, 20, 64, 200, 256])
def test_the_originals_equal_the_published_masks_bit_for_bit(golden_folder, name, n):
    with np.load(golden_folder / "masks.npz") as masks:
        expected = np.stack([masks[f"1d/{cls}/n{n}"] for cls in GOLDEN[name]]).astype(bool)
    assert (ylg.step_masks(f"{name}_original", n).numpy() == expected).all()
    if name != "strided" and math.isqrt(n) ** 2 == n:
        assert (ylg.step_masks(name, n).numpy() == expected).all()


@pytest.mark.parametrize(
    ("step", "key", "stride"),
    [
        (0, "LeftFloorMask/n16_stride2", 2),
        (0, "LeftFloorMask/n20_stride5", 5),
        (0, "LeftFloorMask/n24_stride6", 6),
        (1, "LeftRepetitiveMask/n20_stride5_overlap1", 5),
        (1, "LeftRepetitiveMask/n24_stride4_overlap1", 4),
    ],
)
def test_an_explicit_stride_equals_the_published_one(golden_folder, step, key, stride):
    with np.load(golden_folder / "masks.npz") as masks:
        expected = masks[f"1d_opts/{key}"].astype(bool)
    assert (ylg.step_masks("ltr_original", len(expected), stride)[step].numpy() == expected).all()


def test_the_published_strided_pattern_loses_1920_pairs_in_the_last_columns_of_256():
    lost = np.argwhere(~boolean_product(ylg.step_masks("strided_original", 256)))
    assert len(lost) == 1920 and set(lost[:, 1]) == set(range(241, 256))
    repaired, original = ylg.step_masks("strided", 256), ylg.step_masks("strided_original", 256)
    assert int(repaired.sum()) - int(original.sum()) == 120 and not (original & ~repaired).any()


def test_fixed_is_causal_and_lacks_full_information():
    steps = ylg.step_masks("fixed", 50)
    assert not steps.triu(1).any() and not ylg.has_full_information(steps)


@pytest.fixture
def registry(monkeypatch):
    """A registry of which a test may make what it likes."""
    monkeypatch.setattr(patterns, "_REGISTRY", dict(patterns._REGISTRY))


def ring(n, stride):
    """Step 1: the block. Step 2: everything but the last column, so input n - 1 stays in its block."""
    i = torch.arange(n)
    steps = torch.stack([i[:, None] // stride == i // stride, torch.ones(n, n, dtype=torch.bool)])
    steps[1, :, n // stride * stride - stride :] = False
    return steps


@pytest.mark.usefixtures("registry")
def test_a_registered_pattern_works_like_the_packages_own():
    def transposed(n, stride):
        within, across = ylg.sparse_step_masks("ltr", n, stride)
        return [csr_array(across.T), csr_array(within.T)]

    mine = ylg.register_pattern("ltr-transposed", transposed, about="relays listen first")
    assert mine.num_steps == 2 and ylg.pattern("ltr-transposed") == mine
    expected = ylg.step_masks("ltr", 30, 5).transpose(1, 2).flip(0)
    assert torch.equal(ylg.step_masks("ltr-transposed", 30, stride=5), expected)
    masks = ylg.head_masks(["ltr-transposed", "ltr"], (4, 4), num_heads=4, order="raster")
    assert torch.equal(masks[:2], ylg.step_masks("ltr-transposed", 16))


@pytest.mark.usefixtures("registry")
def test_a_false_claim_is_refused_with_the_unreachable_pair_named():
    with pytest.raises(ValueError, match=r"'ring' claims full .* n=16, stride=4 no path leads from input 12 to"):
        ylg.register_pattern("ring", ring)
    assert "ring" not in patterns.pattern_names()
    ylg.register_pattern("ring", ring, full_information=False)
    assert not ylg.has_full_information(ylg.step_masks("ring", 16))


@pytest.mark.usefixtures("registry")
def test_a_claim_that_fails_only_at_another_size_is_refused_there():
    def honest_below_100(n, stride):
        return ylg.step_masks("ltr", n, stride) if n < 100 else ring(n, stride)

    ylg.register_pattern("sly", honest_below_100)
    assert ylg.has_full_information(ylg.step_masks("sly", 64))
    with pytest.raises(ValueError, match="'sly' claims full information, but with n=144, stride=12 no path"):
        ylg.head_masks("sly", (12, 12))


@dataclass
class Unhashable:
    """As any dataclass that is not frozen."""

    def __call__(self, n, stride):
        return ylg.step_masks("ltr", n, stride)


@pytest.mark.usefixtures("registry")
def test_steps_may_come_one_by_one():
    ylg.register_pattern("lazy", lambda n, stride: (step for step in ylg.step_masks("ltr", n, stride)))
    assert torch.equal(ylg.step_masks("lazy", 16), ylg.step_masks("ltr", 16))


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda n, s: torch.ones(1, n, n), "float32; masks are bool"),
        (lambda n, s: torch.ones(1, n, n + 1, dtype=torch.bool), r"shape \(16, 17\)"),
        (lambda n, s: torch.ones(n, n, dtype=torch.bool).numpy(), r"\(16, 16\) must be \[num_steps, n, n\]"),
        (lambda n, s: [], "holds no step"),
        (lambda n, s: None, "sequence of steps, got NoneType"),
        ("ltr", "must be a function .* got str"),
        (Unhashable(), "hashable callable .* got Unhashable"),
        (lambda n, s: torch.ones(1, 5, 5, dtype=torch.bool), r"built 1 steps of \(5, 5\) for n=16"),
        (lambda n, s: torch.ones(n % 2 + 1, n, n, dtype=torch.bool), r"built 2 steps of \(17, 17\) for n=17"),
        (lambda n, s: ylg.step_masks("ltr", n, n + 1), "cannot be built for n = 16, 17, 36 or 64: stride=17"),
        (
            lambda n, s: torch.eye(n, dtype=torch.bool)[None].roll(1, 1).tril(),
            "position 0 attends to nothing",
        ),
    ],
)
def test_steps_that_attention_cannot_use_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        ylg.register_pattern("broken", build)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ltr", "'ltr' is a name of the package itself"),
        ("ltr_rtl", "name of the package"),
        ("butterfly7", "name of the package"),
        ("9lives", "a letter, then letters, digits.* got '9lives'"),
        ("a b", "got 'a b'"),
        (3, "got 3"),
    ],
)
def test_a_name_that_is_taken_or_malformed_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        ylg.register_pattern(name, ring)


@pytest.mark.usefixtures("registry")
def test_patterns_load_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import ylg\nylg.register_pattern('all', lambda n, s: ylg.step_masks('dense', n))\n")
    assert patterns.load_patterns(path) == ("all",)
    assert ylg.step_masks("all", 5).all()
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=r"registered no pattern; call ylg\.register_pattern"):
        patterns.load_patterns(tmp_path / "empty.py")
    (tmp_path / "wrong.py").write_text("import ylg\n\ntorch.ones(3)\n")
    with pytest.raises(ValueError, match=r"wrong\.py, line 3: NameError: name 'torch' is not defined"):
        patterns.load_patterns(tmp_path / "wrong.py")
    with pytest.raises(ValueError, match=r"no file .*absent\.py"):
        patterns.load_patterns(tmp_path / "absent.py")


@pytest.mark.usefixtures("registry")
def test_any_command_finds_patterns_in_the_files_that_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setattr(patterns, "_LOADED", set())
    for name in ("one", "two"):
        code = f"import ylg\nylg.register_pattern('{name}', lambda n, s: ylg.step_masks('rtl', n, s))\n"
        (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(ValueError, match=r"unknown pattern 'two'.* in a file that YLG_PATTERNS names"):
        ylg.pattern("two")
    monkeypatch.setenv("YLG_PATTERNS", os.pathsep.join([str(tmp_path / "one.py"), str(tmp_path / "two.py")]))
    assert torch.equal(ylg.head_masks(["two", "one"], (4, 4)), ylg.head_masks("rtl", (4, 4)))
    with pytest.raises(ValueError, match="unknown pattern 'three'"):
        ylg.pattern("three")


@pytest.mark.usefixtures("registry")
def test_the_example_in_the_docstring_runs():
    result = doctest.testmod(patterns)
    assert result.attempted > 0 and not result.failed


def test_what_a_caller_does_to_the_steps_does_not_reach_the_next_caller():
    ylg.sparse_step_masks("ltr", 16)[0].data[:] = False
    ylg.step_masks("ltr", 16)[:] = False
    assert ylg.has_full_information(ylg.step_masks("ltr", 16))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ltr", 0), "n=0 must be a whole number of positions, 1 or more"),
        (("ltr", -3), "n=-3"),
        (("ltr", 4.0), "n=4.0"),
        (("ltr", 16, 0), r"stride=0 must be between 1 and n=16; leave it out for 4"),
        (("ltr", 16, 17), "stride=17 must be between 1 and n=16"),
        (("ltr", 16, 2.5), "stride=2.5"),
        (("lrt", 16), "unknown pattern 'lrt'; use one of dense, fixed, ltr, rtl, strided, butterfly"),
        ((None, 16), "unknown pattern None"),
        (("butterfly0", 16), "unknown pattern 'butterfly0'"),
    ],
)
def test_bad_input_is_refused_by_value_and_remedy(arguments, words):
    with pytest.raises(ValueError, match=words):
        ylg.step_masks(*arguments)


@pytest.mark.usefixtures("registry")
def test_the_pages_own_pattern_is_a_whole_file(tmp_path, repository):
    page = (repository / "docs" / "patterns.md").read_text(encoding="utf-8")
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "register_pattern" in text)
    (tmp_path / "mine.py").write_text(block)
    assert patterns.load_patterns(tmp_path / "mine.py") == ("halves",)


def test_a_build_that_does_not_take_n_and_stride_is_refused_by_name():
    with pytest.raises(ValueError, match=r"pattern 'mine' must take two arguments, build\(n, stride\)"):
        ylg.register_pattern("mine", lambda n: None)

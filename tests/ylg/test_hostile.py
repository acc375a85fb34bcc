"""Whatever is handed in, what cannot be is one line of ValueError."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import ylg


def csr(indices, indptr):
    mask = sp.csr_array(np.eye(3, dtype=bool))
    mask.indices, mask.indptr = np.array(indices, dtype=np.int32), np.array(indptr, dtype=np.int32)
    mask.data = np.ones(len(indices), dtype=bool)
    return mask


MALFORMED = {
    "a column beyond the mask": ([0, 1, 7], [0, 1, 2, 3]),
    "a negative column": ([0, -1, 2], [0, 1, 2, 3]),
    "rows that run backwards": ([0, 1, 2], [0, 2, 1, 3]),
    "a row too few": ([0, 1, 2], [0, 1, 3]),
    "an end beyond the entries": ([0, 1, 2], [0, 1, 2, 9]),
}


def floating(mask):
    mask.indices = mask.indices.astype(float)
    return mask


def layer(**changes):
    return ylg.SparseAttention2d(**{"channels": 16, "grid": (4, 4), **changes})


def one_line(attempt, match):
    with pytest.raises(ValueError, match=match) as refusal:
        attempt()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("parts", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("read", [ylg.attention_plan, ylg.has_full_information])
def test_a_malformed_sparse_array_is_refused(read, parts):
    one_line(lambda: read([csr(*parts)]), "is no well-formed sparse array")


def test_masks_that_hold_no_entries_or_no_whole_indices_are_refused():
    one_line(lambda: ylg.attention_plan([floating(csr([0, 1, 2], [0, 1, 2, 3]))]), "its indices are no whole numbers")
    one_line(lambda: ylg.attention_plan(torch.ones(1, 3, 3, dtype=torch.bool, device="meta")), "on the meta device")


X = torch.zeros(1, 2, 4, 3)


@pytest.mark.parametrize(
    ("tensors", "options", "match"),
    [
        ([X] * 3, {"scale": float("nan")}, "scale=nan is not finite"),
        ([X] * 3, {"scale": float("inf")}, "scale=inf is not finite"),
        ([X, X.to_sparse(), X], {}, r"keys of layout torch.sparse_coo are not read; pass keys.to_dense"),
        ([X] * 3, {"key_mask": torch.ones(1, 4, dtype=torch.bool, device="meta")}, "key_mask is on meta but queries"),
        ([X] * 3, {"score_bias": torch.zeros(2, 4, 4)}, r"score_bias must be a function .*got Tensor; of a table"),
        ([X] * 3, {"score_bias": lambda *edge: 1}, r"one number an edge, a tensor \[\d+\], got int"),
        ([X] * 3, {"score_bias": lambda *edge: torch.zeros(3)}, r"one number an edge, a tensor \[\d+\], got \[3\]"),
    ],
)
def test_arguments_of_attention_that_cannot_be_are_refused_by_name(tensors, options, match):
    plan = ylg.attention_plan(ylg.head_masks("ltr", (2, 2), num_heads=2))
    one_line(lambda: ylg.sparse_attention(*tensors, plan, **options), match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"alignment": ["pool"]}, r"unknown alignment \['pool'\]"),
        ({"backend": {"tiles"}}, r"backend=\{'tiles'\} is unknown"),
        ({"mode": ["parallel"]}, r"unknown mode \['parallel'\]"),
        ({"temperature": "warm"}, r"temperature='warm' must be a positive number"),
    ],
)
def test_options_of_the_wrong_kind_are_refused_by_name(changes, match):
    one_line(lambda: layer(**changes), match)


@pytest.mark.parametrize("given", [np.zeros((1, 16, 4, 4)), [1], None, "a", torch.zeros(1, 16, 4, 4).long()])
def test_an_input_that_is_no_floating_point_tensor_is_refused(given):
    one_line(lambda: layer()(given), r"must be a floating-point tensor \[batch, channels, height, width\]")
    one_line(lambda: ylg.SparseAttention(16, num_heads=4)(given), r"floating-point tensor \[batch, tokens, channels\]")


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(ylg.patterns, "_REGISTRY", dict(ylg.patterns._REGISTRY))


def test_a_build_that_fails_is_named_with_its_reason(registry):
    def broken(n, stride):
        return 1 / 0

    def breaks_later(n, stride):
        if n == 25:
            raise KeyError("a\nb")
        return np.ones((1, n, n), dtype=bool)

    one_line(lambda: ylg.register_pattern("broken", broken), r"build of pattern 'broken' fails .*ZeroDivisionError")
    ylg.register_pattern("later", breaks_later)
    one_line(lambda: ylg.step_masks("later", 25), "build of pattern 'later' fails for 25, 5: KeyError")


def test_a_function_registered_again_after_it_changed_is_asked_again(registry):
    causal = False

    def build(n, stride):
        every = np.ones((1, n, n), dtype=bool)
        return np.tril(every) if causal else every

    def registered():
        ylg.register_pattern("changing", build, full_information=False)
        tokens = ylg.SparseAttention(8, (4, 4), "changing", 2)
        return int(ylg.step_masks("changing", 16).sum()), tokens.plan((4, 4)).num_edges

    assert registered() == (256, 2 * 256)
    causal = True
    assert registered() == (136, 2 * 136)

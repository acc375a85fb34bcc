"""Saliency against its definition written as loops, and against the authors' numbers."""

import numpy as np
import pytest
import torch

from analysis.inversion.saliency import saliency, saliency_maps


def test_saliency_is_the_column_sum_over_the_number_of_non_zero_entries():
    attention = torch.rand(2, 3, 8, 4, dtype=torch.float64) * (torch.rand(2, 3, 8, 4) < 0.6)
    ours = saliency(attention)
    for batch in range(2):
        for head in range(3):
            for key in range(4):
                column = [float(attention[batch, head, query, key]) for query in range(8)]
                count = sum(value != 0 for value in column)
                assert float(ours[batch, head, key]) == pytest.approx(sum(column) / count if count else 0.0)


def test_over_all_queries_saliency_is_the_mean_of_the_column():
    attention = torch.rand(2, 3, 8, 4) * (torch.rand(2, 3, 8, 4) < 0.6)
    torch.testing.assert_close(saliency(attention, "all"), attention.mean(-2))
    assert not torch.allclose(saliency(attention, "all"), saliency(attention))


def test_a_key_that_nobody_attends_to_has_saliency_zero_and_not_nan():
    attention = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert saliency(attention).tolist() == [1.0, 0.0]


def test_saliency_equals_the_published_values(shared):
    attention = torch.from_numpy(np.load(shared / "golden" / "a" / "outputs.npz")["disc_attn"])
    golden = np.load(shared / "golden" / "a" / "inversion.npz")
    for side in (16, 32):
        ours = saliency_maps(attention, (side, side))
        torch.testing.assert_close(ours, torch.from_numpy(golden[f"saliency_{side}"]), rtol=1e-5, atol=1e-7)
    drawn = torch.from_numpy(golden["vis_sample0_nearest128"])
    torch.testing.assert_close(saliency_maps(attention[:1], (128, 128))[0], drawn, rtol=1e-5, atol=1e-6)


def test_each_key_cell_becomes_a_rectangle():
    attention = torch.rand(1, 2, 6, 9)
    expected = saliency(attention).reshape(1, 2, 3, 3).repeat_interleave(2, 2).repeat_interleave(4, 3)
    assert torch.equal(saliency_maps(attention, (6, 12)), expected)


def test_keys_that_fill_no_square_are_refused():
    with pytest.raises(ValueError, match="num_keys=48 is not a perfect square"):
        saliency_maps(torch.rand(1, 1, 6, 48), (4, 4))

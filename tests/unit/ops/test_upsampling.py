import pytest
import torch
from adelaidet_reference import assert_close

from comics.ops.upsampling import aligned_upsample


def read_at(row: list[float], position: float) -> float:
    """Linear between neighbours, the last value beyond the end."""
    low = int(position)
    high = min(low + 1, len(row) - 1)
    return row[low] + (position - low) * (row[high] - row[low])


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_equals_the_definition_in_float64(factor):
    maps = torch.randn(2, 1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = aligned_upsample(maps, factor)
    assert found.shape == (2, 1, 3 * factor, 5 * factor)
    source = [max(o - factor // 2, 0) / factor for o in range(5 * factor)]
    for n in range(2):
        for y in range(3 * factor):
            column = [read_at(maps[n, 0, :, x].tolist(), source[y]) for x in range(5)]
            for x in range(5 * factor):
                assert found[n, 0, y, x].item() == pytest.approx(read_at(column, source[x]))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_cell_keeps_its_value_at_the_pixel_it_stands_for(factor):
    maps = torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(1))
    found = aligned_upsample(maps, factor)
    read = found[..., factor // 2 :: factor, factor // 2 :: factor]
    torch.testing.assert_close(read, maps)


def test_equals_the_reference(components):
    case = components["aligned_bilinear"]
    for factor, expected in case["out"].items():
        assert_close(aligned_upsample(case["x"], int(factor)), expected)


def test_no_maps_and_a_bad_factor():
    assert aligned_upsample(torch.zeros(0, 1, 3, 5), 4).shape == (0, 1, 12, 20)
    with pytest.raises(ValueError, match="1 or more, got 0"):
        aligned_upsample(torch.zeros(1, 1, 3, 5), 0)

"""Pictures of a latent, by decoders that show z itself."""

import csv

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from torch import nn

from pofx.domains import Images, Tokens, Vectors
from pofx.errors import Unusable
from pofx.latentmaps import CELLS, NAMED, LatentMap, Traversal, decoded_plane, in_the_plane, labelled
from pofx.randomness import stream
from pofx.samplers.latents import traverse


class Shown:
    def __init__(self, mean):
        self.mean = mean


class Mirror(nn.Module):
    """x = (z1, 10 z2 + c, 0.1 z3)."""

    def decode(self, z, condition=None):
        shift = 0 if condition is None else condition[:, None].double()
        return Shown(z * torch.tensor([1.0, 10.0, 0.1]).double() + shift * torch.tensor([0.0, 1.0, 0.0]).double())


class Painter(nn.Module):
    """A picture of one pixel for each coordinate of z, in levels."""

    def decode(self, z, condition=None):
        return Shown(((z + 2) * 60).round().clamp(0, 255).to(torch.uint8).view(-1, 1, 1, 2))


@pytest.mark.parametrize("condition", [None, torch.tensor([4])])
def test_one_dimension_moves_at_a_time(condition):
    z = torch.tensor([[5.0, 6.0, 7.0]]).double()
    places = torch.tensor([[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]]).double()
    x = traverse(Mirror(), z, places, condition)
    shift = 0 if condition is None else 4
    assert x.shape == (3, 2, 3)
    assert x[0, :, 0].tolist() == [-1, 1]
    assert x[1, :, 1].tolist() == [-20 + shift, 20 + shift]
    assert x[0, :, 1].tolist() == [60 + shift, 60 + shift], "the others stay where they are"


def test_the_dimension_that_moves_x_most_comes_first(tmp_path):
    places = torch.tensor([[-3.0], [0.0], [3.0]]).expand(3, 3).double()
    x = traverse(Mirror(), torch.zeros(1, 3).double(), places)
    traversal = Traversal.by_movement(x, [-3.0, 0.0, 3.0], Vectors(3, ("a", "b", "c")))
    assert traversal.dimensions == (1, 0, 2)
    assert traversal.movement == pytest.approx((1200, 12, 0.12))
    path = traversal.first(1).save(tmp_path / "t.csv")
    with open(path, newline="") as file:
        assert list(csv.reader(file)) == [
            ["dimension", "deviations", "a", "b", "c"],
            ["2", "-3", "0", "-30", "0"],
            ["2", "0", "0", "0", "0"],
            ["2", "3", "0", "30", "0"],
        ]


def test_texts_have_no_traversal():
    with pytest.raises(Unusable, match="pictures or vectors, and these are tokens"):
        Traversal.by_movement(torch.zeros(2, 3, 4, dtype=torch.int64), [0.0, 1.0, 2.0], Tokens(3, 4))


def test_a_sheet_has_its_names_beside_it(tmp_path):
    domain = Images(1, 8, 8, 256)
    x = torch.full((2, 3, 1, 8, 8), 255, dtype=torch.uint8)
    path = Traversal.by_movement(x, [-1.0, 0.0, 1.0], domain).save(tmp_path / "t.png")
    with_names = np.asarray(Image.open(path))
    tiles = Image.new("L", (3 * 50 + 2, 2 * 50 + 2), 255)
    assert with_names.shape > (tiles.height, tiles.width)
    blank = np.asarray(labelled(tiles, ["z1", "z2"], ["-1", "0", "+1"]))
    written = (blank < 128).nonzero()
    left, top = blank.shape[1] - tiles.width, blank.shape[0] - tiles.height
    assert ((written[0] < top) | (written[1] < left)).all(), "nothing is written over the pictures"
    rows = set(((written[0][written[1] < left] - top) // 51).tolist())
    columns = set(((written[1][written[0] < top] - left) // 51).tolist())
    assert rows == {0, 1}
    assert columns == {0, 1, 2}


def test_the_plane_is_that_of_the_largest_variance_and_says_how_much():
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=stream(0, "q"), dtype=torch.float64))
    axes, _ = torch.linalg.qr(torch.randn(500, 4, generator=stream(0, "x"), dtype=torch.float64))
    axes, _ = torch.linalg.qr(axes - axes.mean(0))
    z = (axes * torch.tensor([4.0, 3.0, 2.0, 1.0])) @ rotation + 5
    plane = in_the_plane(z, "latent")
    assert plane.shares == pytest.approx((16 / 30, 9 / 30))
    assert plane.axes[0] == "principal axis 1 of the latent (53% of the variance)"
    torch.testing.assert_close(plane.points.abs(), (axes * torch.tensor([4.0, 3.0, 2.0, 1.0]))[:, :2].abs())


def test_two_dimensions_are_shown_as_they_are():
    z = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    plane = in_the_plane(z)
    assert torch.equal(plane.points, z.double())
    assert plane.axes == ("z1", "z2")
    left, right, bottom, top = plane.frame
    assert (left + right, bottom + top) == pytest.approx((2, 6))
    assert right - left == pytest.approx(top - bottom) == pytest.approx(4.2)


def test_the_grid_lies_as_the_points_do():
    """z1 grows to the right, z2 upwards: the first row of pictures is the top."""
    x = decoded_plane(Painter(), (-2.0, 2.0, -2.0, 2.0)).view(CELLS, CELLS, 2).int()
    at = (torch.arange(CELLS) + 0.5) / CELLS
    expected = (240 * at).round().int()
    assert torch.equal(x[0, :, 0], expected)
    assert torch.equal(x[:, 0, 1], expected.flip(0))


@pytest.mark.parametrize(("dims", "classes", "grid"), [(1, 3, False), (2, 0, True), (2, 12, False), (5, 30, False)])
def test_a_map_has_the_colour_of_each_class(dims, classes, grid, tmp_path):
    z = torch.randn(300, dims, generator=stream(0, "z"))
    labels = torch.arange(300) % classes if classes else None
    names = tuple(f"kind {k}" for k in range(classes))
    plane = in_the_plane(z)
    pictures = decoded_plane(Painter(), plane.frame) if grid else None
    drawn = LatentMap(plane, labels, names, pictures, Images(1, 1, 2, 256))
    picture = Image.open(drawn.save(tmp_path / "m.png")).convert("RGB")
    assert (picture.width > 1.5 * picture.height) == grid
    pixels = np.asarray(picture).reshape(-1, 3).astype(int)
    wanted = colormaps["tab10" if classes <= 10 else "tab20"].colors[:classes] if classes <= NAMED else []
    for colour in wanted:
        assert (np.abs(pixels - 255 * np.array(colour)).max(1) < 3).any()
    assert ((pixels.max(1) - pixels.min(1)) > 40).mean() > 0.001, "points are in colour"

from functools import partial

import numpy as np
import pytest

from iterconv import InputError, data
from iterconv.data import sources
from iterconv.data.digitclutter import CANVAS, DEBRIS, GREY, REACH, Digitclutter, generate
from iterconv.data.glyphs import ADVANCE, EDGE, FACE, HEIGHT, OUTLINE, digit_glyphs
from iterconv.files import read_tensors, to_safetensors, write_atomically

pytestmark = pytest.mark.medium

SAMPLE = generate(300, 3, seed=1)


def equal(a: Digitclutter, b: Digitclutter) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_glyphs_have_the_dimensions_asked_for():
    glyphs = digit_glyphs()
    heights = [glyph.pixels.shape[0] for glyph in glyphs]
    # Half of the outline lies outside on either side; round digits overshoot a little, as in any font.
    assert heights[1] == pytest.approx(HEIGHT + OUTLINE, abs=1) == heights[7]
    assert all(HEIGHT + OUTLINE - 1 <= height <= 1.06 * HEIGHT + OUTLINE for height in heights)
    assert all(glyph.pixels.shape[1] <= ADVANCE for glyph in glyphs)
    zero = glyphs[0].pixels
    middle = zero[zero.shape[0] // 2]
    runs = np.flatnonzero(np.diff(np.concatenate([[9], middle])))
    assert middle[runs].tolist() == [EDGE, FACE, EDGE, 0, EDGE, FACE, EDGE], "a ring of face between outlines"
    assert np.diff(runs)[0] == pytest.approx(OUTLINE, abs=2) == np.diff(runs)[2]


def test_another_font_gets_the_same_dimensions():
    from matplotlib.font_manager import FontProperties, findfont

    serif = digit_glyphs(findfont(FontProperties(family="DejaVu Serif", weight="bold")))
    assert serif[1].pixels.shape[0] == pytest.approx(HEIGHT + OUTLINE, abs=1)
    assert not np.array_equal(serif[1].pixels, digit_glyphs()[1].pixels)


def test_digits_are_distinct_uniform_and_told():
    assert SAMPLE.images.shape == (300, 32, 32) and SAMPLE.images.dtype == np.uint8
    assert (SAMPLE.targets.sum(1) == 3).all()
    for row in range(300):
        assert set(SAMPLE.digits[row]) == set(np.flatnonzero(SAMPLE.targets[row]))
    counts = generate(4000, 1, masks=False).targets.sum(0).astype(int)
    assert abs(counts - 400).max() < 5 * 400**0.5


def test_offsets_are_uniform_within_reach():
    centres = generate(3000, 2, masks=False).centres / REACH
    assert abs(centres).max() <= 1 and abs(centres).max() > 0.99
    for axis in (0, 1):
        values = np.sort(centres[:, :, axis].ravel())
        uniform = np.linspace(-1, 1, len(values))
        assert abs(values - uniform).max() < 0.06, "Kolmogorov-Smirnov distance of 0.03"
    assert abs(np.corrcoef(centres.reshape(-1, 4).T) - np.eye(4)).max() < 0.06


def test_every_digit_lies_whole_inside_the_canvas():
    for glyph in digit_glyphs():
        for axis in (0, 1):
            for sign in (-1, 1):
                corner = round(CANVAS / 2 + sign * CANVAS * REACH[axis] - glyph.reach[axis])
                assert corner >= 0 and corner + glyph.pixels.shape[axis] <= CANVAS


def test_an_image_is_its_glyphs_painted_in_order():
    """A slow painter in the test: pixel by pixel from the glyphs, later digits in front, then averaged."""
    glyphs = digit_glyphs()
    for row in range(5):
        canvas, owner = np.full((CANVAS, CANVAS), GREY), np.full((CANVAS, CANVAS), -1)
        for layer in range(3):
            glyph = glyphs[SAMPLE.digits[row, layer]]
            top, left = (round(CANVAS / 2 + CANVAS * SAMPLE.centres[row, layer, a] - glyph.reach[a]) for a in (0, 1))
            for y, x in np.argwhere(glyph.pixels):
                canvas[top + y, left + x] = 0 if glyph.pixels[y, x] == FACE else 255
                owner[top + y, left + x] = layer
        averaged = np.floor(canvas.reshape(32, 16, 32, 16).mean((1, 3)) + 0.5)
        assert np.array_equal(SAMPLE.images[row], averaged)
        for layer in range(3):
            whole = np.count_nonzero(glyphs[SAMPLE.digits[row, layer]].pixels)
            assert SAMPLE.visible[row, layer] == pytest.approx((owner == layer).sum() / whole)
            mask = ((owner == layer) * 255.0).reshape(32, 16, 32, 16).mean((1, 3))
            assert abs(SAMPLE.masks[row, layer] - mask).max() <= 0.5


@pytest.mark.parametrize("digits, debris", [(3, "light"), (10, "heavy"), (1, None)])
def test_drawing_in_bits_from_the_front_equals_painting_pixels_from_the_back(digits, debris):
    made = generate(4, digits, seed=5, debris=debris)
    crops = DEBRIS[debris] if debris else 0
    draws = np.random.default_rng(5).random((4, 10 + 2 * digits + 6 * crops))
    glyphs = [glyph.pixels for glyph in digit_glyphs()]
    for row in range(4):
        canvas, owner = np.full((CANVAS, CANVAS), GREY), np.full((CANVAS, CANVAS), -1)

        def paint(pixels, top, left, layer, canvas=canvas, owner=owner):
            place = slice(top, top + pixels.shape[0]), slice(left, left + pixels.shape[1])
            canvas[place] = np.where(pixels == FACE, 0, np.where(pixels == EDGE, 255, canvas[place]))
            owner[place] = np.where(pixels > 0, layer, owner[place])

        for layer, digit in enumerate(made.digits[row]):
            reach = digit_glyphs()[digit].reach
            top, left = (CANVAS / 2 + CANVAS * made.centres[row, layer] - reach).round().astype(int)
            paint(glyphs[digit], top, left, layer)
        for draw in draws[row, 10 + 2 * digits :].reshape(crops, 6):
            pixels = glyphs[int(draw[0] * 10)]
            side = min(16 * int(6 + draw[1] * 4), *pixels.shape)
            row_in, column_in = (int(draw[2 + axis] * (pixels.shape[axis] - side + 1)) for axis in (0, 1))
            cut = pixels[row_in : row_in + side, column_in : column_in + side]
            paint(cut, *(int(draw[4 + axis] * (CANVAS - side + 1)) for axis in (0, 1)), digits)
        assert np.array_equal(made.images[row], np.floor(canvas.reshape(32, 16, 32, 16).mean((1, 3)) + 0.5))
        for layer, digit in enumerate(made.digits[row]):
            assert made.visible[row, layer] == (owner == layer).sum() / np.count_nonzero(glyphs[digit])
            mask = ((owner == layer) * 255.0).reshape(32, 16, 32, 16).mean((1, 3))
            assert np.array_equal(made.masks[row, layer], np.floor(mask + 0.5))


def test_later_digits_occlude_earlier_ones():
    assert (SAMPLE.visible[:, -1] == 1).all()
    assert SAMPLE.visible[:, 0].mean() < SAMPLE.visible[:, 1].mean() < 1 and SAMPLE.visible.min() >= 0
    assert (SAMPLE.masks.astype(int).sum(1) <= 255 + 3).all(), "no pixel shows more than one digit at a place"


def test_grey_levels_are_right():
    one = generate(400, 1, masks=False)
    assert (one.images[:, 0, 0] == GREY).mean() > 0.9
    glyphs = digit_glyphs()
    changes = np.mean([(255 * (g.pixels == EDGE).sum() - GREY * (g.pixels > 0).sum()) / CANVAS**2 for g in glyphs])
    assert one.images.mean() == pytest.approx(GREY + changes, abs=1.0)


def test_equal_seeds_give_equal_bytes_in_any_number_of_processes_and_chunks(monkeypatch):
    whole = generate(1100, 5, seed=7, masks=False)
    assert equal(generate(1100, 5, seed=7, masks=False, workers=2), whole)
    monkeypatch.setattr("iterconv.data.digitclutter.CHUNK", 7)
    chunked = generate(50, 5, seed=7, masks=False)
    assert np.array_equal(chunked.images, whole.images[:50]), "and the first of many are the first of few"
    assert not np.array_equal(generate(50, 5, seed=8, masks=False).images, chunked.images)


@pytest.mark.parametrize("debris", ["light", "heavy"])
def test_debris_hides_digits(debris):
    plain, hidden = generate(60, 1, seed=3), generate(60, 1, seed=3, debris=debris)
    assert (plain.visible == 1).all() and hidden.visible.mean() < 0.9
    assert hidden.images.std() > plain.images.std()
    assert equal(hidden, generate(60, 1, seed=3, debris=debris))
    heavy, light = (generate(60, 1, seed=3, debris=d).visible.mean() for d in ("heavy", "light"))
    assert heavy < light


def test_progress_counts_images():
    seen = []
    generate(1100, 1, masks=False, progress=seen.append)
    assert seen == [500, 1000, 1100]


@pytest.mark.parametrize(
    "options, says",
    [
        ({"n": 0}, "n=0"),
        ({"digits": 0}, "digits=0"),
        ({"digits": 11}, "digits=11"),
        ({"seed": -1}, "seed=-1"),
        ({"workers": 0}, "workers=0"),
        ({"debris": "some"}, "debris='some'"),
        ({"font": "/nowhere.ttf"}, "can't read font /nowhere.ttf"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(InputError, match=says) as error:
        generate(**{"n": 5, **options})
    assert "\n" not in str(error.value)


def test_loaded_by_name_with_several_labels(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "digitclutter-4", partial(sources._digitclutter, 4, (200, 50)))
    loaded = data.load("digitclutter-4", samples=100)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (100, 20, 50)
    assert loaded.chance == pytest.approx(0.6) and loaded.in_channels == 1 and loaded.image_size == (32, 32)
    assert (loaded.train.targets.sum(1) == 4).all()
    again = data.load("digitclutter-4", samples=100)
    assert np.array_equal(loaded.train.images, again.train.images)


def test_files_carry_their_checksum(tmp_path):
    import torch

    path = tmp_path / "x.safetensors"
    write_atomically(path, to_safetensors({"a": torch.arange(1000)}))
    assert torch.equal(read_tensors(path)["a"], torch.arange(1000))
    changed = bytearray(path.read_bytes())
    changed[-9] ^= 1
    path.write_bytes(bytes(changed))
    with pytest.raises(InputError, match="checksum"):
        read_tensors(path)

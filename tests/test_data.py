import gc
import io
import os
import socket
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from iterconv import InputError, data
from iterconv.data import decoding
from iterconv.data import hub as iterconv_hub
from iterconv.data.dataset import PADDING, crop_and_flip
from iterconv.data.splits import choose_balanced, choose_stratified

SHARED = Path(os.environ.get("ITERCONV_DATA") or Path(__file__).parents[2] / "shared" / "data")


def pixels(n, size=(6, 5), channels=1, seed=0):
    shape = (n, *size) if channels == 1 else (n, *size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def cells(arrays):
    return [{"bytes": png(array), "path": None} for array in arrays]


def write_parquet(path, arrays, labels, image="image", label="label", names=None, **others):
    """A file in the hub's layout: image structs, integer labels, the feature schema in the metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    classes = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = {image: datasets.Image(), label: classes} | dict.fromkeys(others, datasets.Value("int64"))
    columns = {image: cells(arrays), label: list(labels), **others}
    schema = datasets.Features(features).arrow_schema
    pq.write_table(pa.table(columns).cast(schema), path)
    return path


def write_folder(root, n=10, classes=("ant", "bee"), **shape):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for row, array in enumerate(pixels(n, seed=number, **shape)):
            (root / name / f"{row}.png").write_bytes(png(array))
    return root


def table(tmp_path, **columns):
    """A Parquet file as any other tool writes it, without a feature schema."""
    path = tmp_path / "plain.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def same(first, second):
    return torch.equal(first.images, second.images) and torch.equal(first.targets, second.targets)


def keys(*splits):
    return [image.numpy().tobytes() for split in splits for image in split.images]


# Sources


def test_digits_are_the_scikit_learn_images_on_the_full_scale():
    digits = data.load("digits")
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1294, 144, 359)
    assert (digits.in_channels, digits.image_size, digits.classes, digits.chance) == (1, (8, 8), 10, 0.9)
    assert digits.train.images.dtype == torch.uint8 and digits.train.targets.dtype == torch.int64
    levels = digits.train.images.unique().tolist()
    assert levels == [round(level * 255 / 16) for level in range(17)]


def test_parquet_folder_keeps_rows_and_their_order(tmp_path):
    train, test = pixels(40), pixels(10, seed=1)
    write_parquet(tmp_path / "train-00000-of-00001.parquet", train, [row % 4 for row in range(40)])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", test, [row % 4 for row in range(10)])
    loaded = data.load(tmp_path, validation=0)
    assert (loaded.classes, loaded.image_size, len(loaded.validation)) == (4, (6, 5), 0)
    assert torch.equal(loaded.train.images[:, 0], torch.from_numpy(train))
    assert torch.equal(loaded.test.images[:, 0], torch.from_numpy(test))
    assert loaded.test.targets.tolist() == [row % 4 for row in range(10)]
    assert len(data.load(tmp_path).batches(loaded.validation)) == 0


def test_words_above_the_folder_do_not_name_splits(tmp_path):
    root = tmp_path / "test" / "validation"
    write_parquet(root / "train-0.parquet", pixels(30), [row % 2 for row in range(30)])
    write_parquet(root / "test-0.parquet", pixels(4, seed=1), [0, 1, 0, 1])
    assert len(data.load(root).test) == 4
    assert len(data.load(write_folder(tmp_path / "test" / "train" / "k")).test) == 4


def test_cifar100_layout_has_fine_labels(tmp_path, monkeypatch):
    fine = [row % 20 for row in range(100)]
    names = [f"class {number}" for number in range(100)]
    arrays = pixels(100, (8, 8), channels=3)
    for split in ("train", "test"):
        path = tmp_path / "cifar100" / f"{split}-00000-of-00001.parquet"
        write_parquet(path, arrays, fine, "img", "fine_label", names, coarse_label=[label % 5 for label in fine])
    monkeypatch.setenv("ITERCONV_DATA", str(tmp_path))
    loaded = data.load("cifar100", validation=0)
    assert (loaded.name, loaded.classes, loaded.in_channels) == ("cifar100", 100, 3)
    assert loaded.train.targets.tolist() == fine
    assert torch.equal(loaded.train.images, torch.from_numpy(arrays).permute(0, 3, 1, 2))
    assert data.load("cifar100", label_column="coarse_label").classes == 5


def test_image_folders_with_and_without_splits(tmp_path):
    flat = data.load(write_folder(tmp_path / "flat", channels=3))
    assert (len(flat.train) + len(flat.validation), len(flat.test), flat.in_channels) == (16, 4, 3)
    for split, n in (("train", 10), ("test", 3)):
        write_folder(tmp_path / "split" / split, n)
    split = data.load(tmp_path / "split", validation=0)
    assert (len(split.train), len(split.test), split.classes) == (20, 6, 2)


def test_a_file_without_feature_schema(tmp_path):
    arrays = pixels(20)
    loaded = data.load(table(tmp_path, img=cells(arrays), labels=[row % 2 for row in range(20)]))
    assert sorted(keys(loaded.train, loaded.validation, loaded.test)) == sorted(array.tobytes() for array in arrays)


def test_a_validation_split_serves_as_test_split_where_there_is_none(tmp_path):
    write_parquet(tmp_path / "train.parquet", pixels(20), [row % 2 for row in range(20)])
    write_parquet(tmp_path / "validation.parquet", pixels(6), [0, 1] * 3)
    assert len(data.load(tmp_path).test) == 6


# Splits


def test_splits_are_disjoint_complete_and_stratified():
    digits = data.load("digits", validation=0.25, split_seed=3)
    splits = (digits.train, digits.validation, digits.test)
    assert len(set(keys(*splits))) == len(keys(*splits)) == 1797
    counts = torch.stack([torch.bincount(split.targets) for split in splits]).double()
    shares = counts / counts.sum(1, keepdim=True)
    assert (shares - shares[0]).abs().max() < 0.01


def test_splits_depend_on_their_seed_alone():
    first = data.load("digits", samples=50)
    torch.manual_seed(7)
    np.random.seed(7)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    second = data.load("digits", samples=50)
    assert torch.equal(torch.get_rng_state(), state[0]) and np.random.get_state()[1].tolist() == state[1]
    other = data.load("digits", samples=50, split_seed=1)
    for split in ("train", "validation", "test"):
        assert same(getattr(first, split), getattr(second, split))
        assert not same(getattr(first, split), getattr(other, split))


def test_samples_are_a_balanced_part_of_the_training_split():
    whole, part = data.load("digits"), data.load("digits", samples=105)
    counts = torch.bincount(part.train.targets)
    assert len(part.train) == 105 and counts.max() - counts.min() == 1
    assert set(keys(part.train)) <= set(keys(whole.train))
    assert same(part.validation, whole.validation) and same(part.test, whole.test)
    assert not torch.equal(part.mean, whole.mean)


def test_evaluation_samples_limit_validation_and_test_alike():
    whole, few = data.load("digits"), data.load("digits", evaluation_samples=50)
    assert torch.equal(few.train.images, whole.train.images) and torch.equal(few.mean, whole.mean)
    for name in ("validation", "test"):
        split, part = getattr(whole, name), getattr(few, name)
        assert len(part) == 50
        known = {image.numpy().tobytes() for image in split.images}
        assert all(image.numpy().tobytes() in known for image in part.images)
        assert (torch.bincount(part.targets) - 50 * torch.bincount(split.targets) / len(split)).abs().max() < 1
    more = data.load("digits", evaluation_samples=200)
    assert len(more.validation) == len(whole.validation) < 200 == len(more.test)


def test_stratified_gives_every_class_its_share():
    targets = torch.tensor([0] * 60 + [1] * 30 + [3] * 10)
    chosen, others = choose_stratified(targets, 20, seed=0)
    assert torch.bincount(targets[chosen]).tolist() == [12, 6, 0, 2]
    assert torch.cat([chosen, others]).sort().values.tolist() == list(range(100))


def test_balanced_needs_enough_of_each_class():
    with pytest.raises(InputError, match=r"samples=8 needs 4 samples of class 1, there are 2"):
        choose_balanced(torch.tensor([0] * 10 + [1] * 2), 8, 2, seed=0)


# Batches


def test_standardised_training_images_have_mean_0_and_deviation_1(tmp_path):
    loaded = data.load(write_folder(tmp_path / "f", 30, channels=3))
    inputs = loaded.normalise(loaded.train.images)
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_a_constant_channel_stays_finite(tmp_path):
    write_parquet(tmp_path / "a.parquet", np.full((20, 4, 4), 7, np.uint8), [0, 1] * 10)
    loaded = data.load(tmp_path / "a.parquet")
    assert loaded.normalise(loaded.train.images).abs().max() < 1e-6


def test_batches_go_through_a_split_in_order_again_and_again():
    digits = data.load("digits")
    batches = digits.batches(digits.test, 100)
    assert len(batches) == 4 and [len(targets) for _, targets in batches] == [100, 100, 100, 59]
    for _ in range(2):
        inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert torch.equal(inputs, digits.normalise(digits.test.images)) and torch.equal(targets, digits.test.targets)
    assert torch.equal(batches[-1][1], batches[3][1])
    with pytest.raises(IndexError):
        batches[4]


def test_training_batches_are_a_permutation_from_their_generator_alone():
    digits = data.load("digits", samples=100)
    before = torch.get_rng_state()
    first, again = (list(digits.training_batches(32, torch.Generator().manual_seed(1), True)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(targets) for _, targets in first] == [32, 32, 32, 4]
    assert all(torch.equal(x, y) for a, b in zip(first, again, strict=True) for x, y in zip(a, b, strict=True))
    plain = list(digits.training_batches(32, torch.Generator().manual_seed(1)))
    inputs, targets = (torch.cat(parts) for parts in zip(*plain, strict=True))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    assert torch.equal(inputs, digits.normalise(digits.train.images)[order])
    assert torch.equal(targets, digits.train.targets[order])


def test_a_last_batch_of_one_image_is_left_out():
    digits = data.load("digits", samples=33)
    sizes = [len(targets) for _, targets in digits.training_batches(16, torch.Generator())]
    assert sizes == [16, 16]


@pytest.mark.parametrize("shape", [(50, 3, 7, 5), (20, 1, 8, 8), (0, 1, 4, 4)])
def test_augmentation_against_a_loop(shape):
    originals = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augmented = crop_and_flip(originals, torch.Generator().manual_seed(5))
    n, channels, height, width = shape
    generator = torch.Generator().manual_seed(5)
    places = torch.randint(2 * PADDING + 1, (2, n), generator=generator)
    flips = torch.randint(2, (n,), generator=generator)
    for image, result, top, left, flip in zip(originals, augmented, *places, flips, strict=True):
        padded = torch.zeros(channels, height + 2 * PADDING, width + 2 * PADDING, dtype=torch.uint8)
        padded[:, PADDING:-PADDING, PADDING:-PADDING] = image
        crop = padded[:, top : top + height, left : left + width]
        assert torch.equal(result, crop.flip(2) if flip else crop)
    assert n == 0 or 0 < flips.float().mean() < 1


# Cache


def count_decodings(monkeypatch):
    calls = []
    decode = decoding._arrays
    monkeypatch.setattr(decoding, "_arrays", lambda *args: calls.append(1) or decode(*args))
    return calls


def test_the_second_load_does_not_decode(tmp_path, monkeypatch):
    calls = count_decodings(monkeypatch)
    path = write_parquet(tmp_path / "a.parquet", pixels(20), [0, 1] * 10)
    first, second = data.load(path), data.load(path)
    assert len(calls) == 1 and same(first.train, second.train) and first.classes == second.classes
    write_parquet(path, pixels(22), [0, 1] * 11)
    assert len(data.load(path).train) > len(first.train) and len(calls) == 2


def test_a_damaged_cache_is_made_anew(tmp_path, monkeypatch):
    calls = count_decodings(monkeypatch)
    path = write_parquet(tmp_path / "a.parquet", pixels(20), [0, 1] * 10)
    first = data.load(path)
    (cache,) = Path(os.environ["ITERCONV_CACHE"]).iterdir()
    whole = cache.read_bytes()
    for damaged in (b"", whole[:-1], b"nonsense"):
        cache.write_bytes(damaged)
        assert same(data.load(path).train, first.train) and cache.read_bytes() == whole
    assert len(calls) == 4


def test_an_unwritable_cache_means_no_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ITERCONV_CACHE", str(tmp_path / "file"))
    path = write_parquet(tmp_path / "a.parquet", pixels(20), [0, 1] * 10)
    assert len(data.load(path).train) == 14


def test_loading_is_silent_and_leaves_source_and_settings_alone(tmp_path, capfd):
    path = write_parquet(tmp_path / "a" / "a.parquet", pixels(20), [0, 1] * 10)
    verbosity, silent = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    data.load(path.parent)
    assert capfd.readouterr() == ("", "")
    assert list(path.parent.iterdir()) == [path]
    assert (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == (verbosity, silent)


# The hub, which is never reached


def forbid_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr(iterconv_hub.urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "nobody-at-all/nothing"])
def test_without_network_the_hub_is_one_line_with_a_remedy(name, monkeypatch, tmp_path):
    import huggingface_hub.constants as hub

    forbid_network(monkeypatch)
    monkeypatch.setenv("ITERCONV_DATA", str(tmp_path))
    before = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    with pytest.raises(InputError, match=rf"can't load '.*{name}' from .* hub .*set ITERCONV_DATA") as error:
        data.load(name)
    assert "\n" not in str(error.value)
    assert (hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == before


def test_the_hub_is_decoded_once(monkeypatch, tmp_path):
    forbid_network(monkeypatch)
    path = write_parquet(tmp_path / "a.parquet", pixels(20), [0, 1] * 10)
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "scratch"))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": rows, "test": rows})
    calls = count_decodings(monkeypatch)
    first, second = data.load("mnist"), data.load("ylecun/mnist")
    assert len(calls) == 2 and same(first.train, second.train) and len(first.test) == 20


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "digit"}, r"there is no data set 'digit'; did you mean 'digits'\?"),
        ({"name": "MNIST"}, r"did you mean 'mnist'\?"),
        ({"name": "imagenet"}, r"there is no data set 'imagenet'; use digits, mnist, .* a path or a hub name"),
        ({"name": ""}, r"there is no data set ''"),
        ({"name": "no/such.parquet"}, r"there is no data set 'no/such.parquet'"),
        ({"validation": 1.0}, r"validation=1.0 is not in \[0, 1\)"),
        ({"validation": -0.1}, r"validation=-0.1"),
        ({"validation": 0.9999}, r"validation=0.9999 leaves no image of digits to train on"),
        ({"evaluation_samples": 0}, "evaluation_samples=0 leaves nothing"),
        ({"samples": 9}, r"samples=9 is less than one for each of 10 classes; use 10 or more"),
        ({"samples": 1798}, r"samples=1798 is more than the 1294 training samples there are; use fewer"),
        ({"device": "nowhere"}, r"device 'nowhere' is not there; use 'cpu'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message) as error:
        data.load(**{"name": "digits"} | options)
    assert "\n" not in str(error.value)


def test_bad_batch_sizes():
    digits = data.load("digits")
    with pytest.raises(InputError, match="batch_size=0 is too small"):
        digits.batches(digits.test, 0)
    with pytest.raises(InputError, match="batch_size=1 is too small to train with"):
        next(digits.training_batches(1, torch.Generator()))


def refuses(path, message, **options):
    with pytest.raises(InputError, match=message) as error:
        data.load(path, **options)
    assert "\n" not in str(error.value)


def test_missing_columns(tmp_path):
    path = table(tmp_path, photo=cells(pixels(4)), kind=[0, 1, 0, 1])
    refuses(path, r"no column image or img but photo, kind; pass image_column=")
    refuses(path, r"no column label or fine_label or labels but photo, kind; pass label_column=", image_column="photo")
    refuses(path, r"no column species but photo, kind", image_column="photo", label_column="species")
    refuses(
        path,
        r"the image in row 0 of .* can't be decoded .*pass image_column=",
        image_column="kind",
        label_column="kind",
    )
    loaded = data.load(path, image_column="photo", label_column="kind", validation=0)
    assert len(loaded.train) + len(loaded.test) == 4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0], r"label 0.0 of .* is not a class number; pass another label_column="),
        (["cat", "dog"], r"label 'cat' of .* is not a class number"),
        ([0, None], r"label None of .* is not a class number"),
        ([True, False], r"label True of .* is not a class number"),
        ([0, -1], r"label -1 of .* is out of range; labels are 0\.\.1"),
        ([0, 10**12], r"label 1000000000000 of .* is out of range"),
    ],
)
def test_labels_that_are_no_class_numbers(tmp_path, labels, message):
    refuses(table(tmp_path, image=cells(pixels(2)), label=labels), message)


def test_labels_beyond_the_declared_classes(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", pixels(4), [0, 1, 0, 2], names=["ant", "bee"])
    refuses(path, r"label 2 of .* is out of range; labels are 0\.\.1")


def test_images_of_unequal_size(tmp_path):
    both = [*pixels(2), *pixels(2, (7, 5))]
    message = r"images of 6x5 pixels, 1 channel\(s\) and of 7x5 pixels, 1 channel\(s\) \(row 2\)"
    refuses(write_parquet(tmp_path / "a.parquet", both, [0, 1, 0, 1]), message)
    write_parquet(tmp_path / "b" / "train.parquet", pixels(4), [0, 1, 0, 1])
    write_parquet(tmp_path / "b" / "test.parquet", pixels(4, (7, 5)), [0, 1, 0, 1])
    refuses(
        tmp_path / "b",
        r"training images of 6x5 pixels, 1 channel\(s\) and test images of 7x5 .*; make them all of one size",
    )


def test_images_that_are_not_of_8_bits(tmp_path):
    floats = np.full((2, 4, 4), 0.5, np.float32)
    floats[1, 0, 0] = np.nan
    encoded = []
    for array in floats[::-1]:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "TIFF")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    refuses(table(tmp_path, image=encoded, label=[0, 1]), r"float32 pixels from nan to nan; save .* with 8 bits")
    lists = [[[0.5, float("nan")]] * 2] * 2
    refuses(table(tmp_path, image=lists, label=[0, 1]), r"float32 pixels from nan to nan")


def test_damaged_files(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", pixels(20), [0, 1] * 10)
    path.write_bytes(path.read_bytes()[:-200])
    refuses(path, r"can't read .*a.parquet .*may be corrupt")
    noise = pixels(1, (64, 64))[0]
    whole = {"bytes": png(noise), "path": None}
    for damaged in (b"nonsense", png(noise)[:2000]):
        columns = {"image": [whole, {"bytes": damaged, "path": None}], "label": [0, 1]}
        refuses(table(tmp_path, **columns), r"the image in row 1 of .* can't be decoded .*(truncated|identify).*;")
    refuses(table(tmp_path, image=[whole, None], label=[0, 1]), r"row 1 of .* holds no image; drop the row")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Pillow's, from the image that fails
def test_a_damaged_image_in_a_folder(tmp_path):
    folder = write_folder(tmp_path / "folder")
    (folder / "bee" / "3.png").write_bytes(png(pixels(1, (64, 64))[0])[:2000])
    refuses(folder, r"the image in row 13 of .*folder .*can't be decoded")
    gc.collect()


def test_empty_and_foreign_sources(tmp_path):
    refuses(write_parquet(tmp_path / "a.parquet", [], []), r"a.parquet.*(has no rows|empty)")
    (tmp_path / "nothing").mkdir()
    refuses(tmp_path / "nothing", r"nothing holds neither Parquet files nor a folder for each class")
    (tmp_path / "hollow" / "ant").mkdir(parents=True)
    refuses(tmp_path / "hollow", r"can't read .*hollow .*empty")
    (tmp_path / "notes.txt").write_text("")
    refuses(tmp_path / "notes.txt", r"notes.txt is not a Parquet file")
    for split in ("test", "validation"):
        write_parquet(tmp_path / "odd" / f"{split}.parquet", pixels(4), [0, 1, 0, 1])
    refuses(tmp_path / "odd", r"odd has no training split but .*; name it train")


# The real data, where they are


@pytest.mark.parametrize(("name", "channels", "size", "rows"), [("mnist", 1, 28, 10_000), ("cifar10", 3, 32, 1000)])
def test_shared_data_have_the_known_layout(name, channels, size, rows):
    file = SHARED / name / "test-00000-of-00001.parquet"
    if not file.exists():
        pytest.skip(f"{file} is not here")
    loaded = data.load(file, validation=0)
    assert (loaded.classes, loaded.in_channels, loaded.image_size) == (10, channels, (size, size))
    assert len(loaded.train) + len(loaded.test) == rows


def test_grey_and_colour_images_are_told_apart(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, [pixels(1)[0], pixels(1, channels=3)[0]], [0, 1])
    with pytest.raises(InputError, match=r"\(row 1\); save them all in grey, or all in colour"):
        data.load(path)


def test_a_broken_image_is_named_by_its_row(tmp_path):
    path = tmp_path / "plain.parquet"
    good = png(pixels(1)[0])
    pq.write_table(pa.table({"image": [good] * 100 + [b"no image"], "label": [0, 1] * 50 + [0]}), path)
    with pytest.raises(InputError, match=r"the image in row 100 of .* \(cannot identify image file\)") as error:
        data.load(path)
    assert "0x" not in str(error.value)


def test_names_may_hold_what_is_special_in_patterns(tmp_path):
    for name in ("a[b]1.parquet", "x?*.parquet"):
        (tmp_path / "[sets]").mkdir(exist_ok=True)
        write_parquet(tmp_path / "[sets]" / name, pixels(40), [0, 1] * 20)
        assert len(data.load(tmp_path / "[sets]" / name).train) > 20


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "train.parquet")
    for path in (tmp_path, tmp_path / "train.parquet", Path("/dev/zero")):
        with pytest.raises(InputError, match="is neither a file nor a folder but a pipe or a device"):
            data.load(path)


def test_a_folder_that_can_not_be_read_is_told_so(tmp_path, monkeypatch):
    write_folder(tmp_path / "sets")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "bee":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"can't read .*sets/bee \(Permission denied\); check the path and its rights"):
        data.load(tmp_path / "sets")


def test_small_files_of_very_much_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    from iterconv import errors as memory

    monkeypatch.setattr(memory, "free_memory", lambda: 2.0**30)
    large, many = tmp_path / "large.parquet", tmp_path / "many.parquet"
    blank = png(np.zeros((4000, 4000), dtype=np.uint8))
    pq.write_table(pa.table({"image": [blank] * 200, "label": [0, 1] * 100}), large)
    with pytest.raises(InputError, match=r"200 images of 4000x4000 pixels.* would take 2.98 GiB .* the 1 GiB .*free"):
        data.load(large)
    encoded = pa.array([png(pixels(1)[0])]).take(pa.array(np.zeros(4_000_000, dtype=np.int32)))
    pq.write_table(pa.table({"image": encoded, "label": np.zeros(4_000_000, dtype=np.int64)}), many)
    with pytest.raises(InputError, match=r"4000000 rows of .*many.parquet would take .* GiB of memory"):
        data.load(many)


def test_without_a_home_there_is_no_cache(tmp_path, monkeypatch):
    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ITERCONV_CACHE")
    monkeypatch.setattr(Path, "home", none)
    write_parquet(tmp_path / "a.parquet", pixels(40), [0, 1] * 20)
    assert len(data.load(tmp_path / "a.parquet").train) > 20

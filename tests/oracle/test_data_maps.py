"""Data larger than memory, against the same data held in memory; and what can befall the cache."""

import errno
import io
import re
import shutil
import tarfile
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from pofx.data import decoded, inspect, load, maps, order
from pofx.data.dataset import Rows, Windows
from pofx.data.maps import Mapped, MappedWindows
from pofx.data.order import Shuffled
from pofx.errors import Unusable
from pofx.progress import quietly
from pofx.randomness import stream
from pofx.train.batches import Batches

SPLITS = ("train", "validation", "test")
RNG = np.random.default_rng(0)
TEXT = "\ufeff" + "".join(f"{i} grüne Flaschen,  hängen\nan der \U0001f600 Wand.\n\n" for i in range(900)) + "ÿ" * 40
ENCODINGS = ["characters", "bytes", "bpe", "bpe,vocabulary=300"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POFX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.setattr("pofx.data.streams.PIECE", 997)  # a prime: cuts fall inside characters and words
    path = tmp_path / "flaschen.txt"
    path.write_text(TEXT, encoding="utf-8", newline="")
    return path


def write_pictures(folder, count, *, size=(9, 7), values=256):
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(RNG.integers(values, size=(count, size[1], size[0], 3), dtype=np.uint8)):
        Image.fromarray(pixels * (255 // (values - 1))).save(folder / f"{i:03}.png")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "RUN", 3 * 9 * 7 * 8)  # eight pictures
    write_pictures(tmp_path / "photos" / "a", 30)
    write_pictures(tmp_path / "photos" / "b", 23)
    copy = (tmp_path / "photos" / "b" / "000.png").read_bytes()
    (tmp_path / "photos" / "b" / "zz.png").write_bytes(copy)
    return tmp_path / "photos"


def assert_equal(mapped, held):
    """The same observations, condition and batches."""
    assert mapped.domain == held.domain
    assert mapped.condition == held.condition
    assert mapped.problems == held.problems
    for name in SPLITS:
        assert torch.equal(mapped.indices[name], held.indices[name])
        one, other = mapped.part(name), held.part(name)
        assert isinstance(one, Mapped | MappedWindows)
        assert isinstance(other, Rows | Windows)
        assert len(one) == len(other)
        assert one.observations == other.observations
        for x, y in zip(one.rows(), other.rows()):
            assert (x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y))
        batches = [Batches(part, min(7, len(part)), stream(0, "data"), torch.device("cpu")) for part in (one, other)]
        for _ in range(5):
            for x, y in zip(*(b.next()[0] for b in batches)):
                assert (x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_mapped_text_is_the_text(text, encoding):
    held = load(f"{text}:encoding={encoding},length=16")
    assert_equal(load(f"{text}:encoding={encoding},length=16,mapped"), held)
    if encoding == "characters":
        assert any("never stand in training ('ÿ')" in line for line in held.problems)
    assert_equal(load(f"{text}:encoding={encoding},length=16,mapped"), held)  # from the cache
    limited = [load(f"{text}:encoding={encoding},length=16,limit=20{more}") for more in ("", ",mapped")]
    assert_equal(limited[1], limited[0])


def test_a_large_text_is_mapped_without_being_asked(text, monkeypatch):
    held = load(str(text))
    monkeypatch.setattr(maps, "IN_MEMORY", 8 * text.stat().st_size - 1)
    assert_equal(load(str(text)), held)


def test_a_mapped_folder_is_one_text(text):
    (text.parent / "folder" / "b").mkdir(parents=True)
    for name in ("a.txt", "b/c.txt", "b/d.md"):
        (text.parent / "folder" / name).write_text(f"{name} {TEXT[:9000]}", encoding="utf-8")
    assert_equal(load(f"{text.parent / 'folder'}:mapped"), load(str(text.parent / "folder")))


@pytest.mark.parametrize(("vocabulary", "dtype"), [(256, "u1"), (257, "u2"), (300, "u2")])
def test_tokens_are_kept_in_the_smallest_dtype(tmp_path, vocabulary, dtype):
    symbols = "".join(chr(0x100 + i) for i in range(vocabulary))
    (tmp_path / "t.txt").write_text(symbols * 30, encoding="utf-8")
    data = load(f"{tmp_path / 't.txt'}:mapped")
    assert data.domain.vocabulary == vocabulary
    assert data.train.tokens.dtype == np.dtype(dtype)


def test_a_text_is_encoded_once_and_again_after_a_change_or_a_deletion(text, cache, monkeypatch):
    first = load(f"{text}:mapped")
    encode = "pofx.data.streams._encoded"
    with monkeypatch.context() as patch:
        patch.setattr(encode, None)
        assert load(f"{text}:mapped").fingerprint() == first.fingerprint()
    for file in cache.rglob("*.*"):
        file.unlink()
    assert load(f"{text}:mapped").fingerprint() == first.fingerprint()
    text.write_text(TEXT.replace("7", "8"), encoding="utf-8", newline="")
    changed = load(f"{text}:mapped")
    assert changed.fingerprint() != first.fingerprint()
    assert_equal(changed, load(str(text)))


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"\0" * len(b), lambda b: b"", lambda b: b + b"x"])
@pytest.mark.parametrize("name", ["validation.bin", "text.json"])
def test_a_damaged_text_is_made_again_with_one_line(text, cache, capsys, name, damage):
    held = load(str(text))
    load(f"{text}:mapped")
    file = next(cache.rglob(name))
    file.write_bytes(damage(file.read_bytes()))
    capsys.readouterr()
    assert_equal(load(f"{text}:mapped"), held)
    assert capsys.readouterr().err == f"{file} is damaged; it is made again\n"
    load(f"{text}:mapped")
    assert capsys.readouterr().err == ""


def test_a_text_is_encoded_in_bounded_memory(tmp_path, monkeypatch):
    """Of 24 megabytes, 10 are never held at once; the tables of the alphabet, 7, would be the same for any text."""
    monkeypatch.setattr("pofx.data.streams.PIECE", 1 << 16)
    monkeypatch.setattr(maps, "PIECE", 1 << 16)
    (tmp_path / "t.txt").write_text("the quick brown fox jumps over the lazy dog again\n" * 480_000)
    tracemalloc.start()
    data = load(f"{tmp_path / 't.txt'}:mapped")
    data.train.take(torch.randint(len(data.train), (64,)))
    data.fingerprint()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_text_that_is_not_utf8_names_the_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("pofx.data.streams.PIECE", 100)
    (tmp_path / "t.txt").write_bytes("é".encode() * 1234 + b"\xff" + b"x" * 999)
    for source in (f"{tmp_path / 't.txt'}", f"{tmp_path / 't.txt'}:mapped"):
        with pytest.raises(Unusable, match=r"not UTF-8 text \(byte 2,468.*encoding=bytes"):
            load(source)
    (tmp_path / "t.txt").write_bytes(b"x" * 2000 + "é".encode()[:1])
    with pytest.raises(Unusable, match=r"not UTF-8 text \(byte 2,000"):
        load(f"{tmp_path / 't.txt'}:mapped")


def test_records_are_held_in_memory(text):
    with pytest.raises(Unusable, match="leave 'mapped' or 'records' out"):
        load(f"{text}:records,mapped")


@pytest.mark.parametrize("dtype", ["u1", "<u2", "i8"])
def test_an_array_of_integers_with_a_length_is_tokens(tmp_path, dtype):
    tokens = RNG.integers(50, size=1000).astype(dtype)
    np.save(tmp_path / "t.npy", tokens)
    data = load(f"{tmp_path / 't.npy'}:length=10")
    assert (data.domain.vocabulary, data.domain.length, data.domain.encoding) == (int(tokens.max()) + 1, 10, "none")
    np.testing.assert_array_equal(data.test.rows()[0].flatten().numpy(), tokens[900:])
    x, _ = data.train.take(torch.tensor([0, 3]))
    np.testing.assert_array_equal(x.numpy(), [tokens[:10], tokens[3:13]])
    assert data.domain.check(x).dtype == torch.int64
    assert load(str(tmp_path / "t.npy")).domain.kind == "vectors"  # as ever, without a length
    np.save(tmp_path / "t.npy", tokens + np.arange(1000).astype(dtype) % 2)
    assert load(f"{tmp_path / 't.npy'}:length=10").fingerprint() != data.fingerprint()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(900), "must hold integers"),
        (np.zeros((90, 9), int), "must hold integers"),
        (-np.ones(900, int), "tokens are 0 or more, got -1"),
        (np.zeros(20, int), "at least 10 windows"),
    ],
)
def test_arrays_that_are_no_tokens(tmp_path, array, message):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(Unusable, match=message):
        load(f"{tmp_path / 't.npy'}:length=10")


@pytest.mark.parametrize("options", ["", ",levels=4", ",size=5", ",limit=11"])
def test_mapped_pictures_are_the_pictures(photos, options):
    held = load(f"{photos}:{options[1:]}", condition="class")
    assert "limit" in options or any("copies" in line or "also stand in" in line for line in held.problems)
    for _ in range(2):  # decoded, then from the cache
        assert_equal(load(f"{photos}:mapped{options}", condition="class"), held)


@pytest.mark.parametrize("kind", ["grey", "ink"])
def test_mapped_grey_pictures_have_one_channel(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(decoded, "RUN", 9 * 7 * 3 * 5)
    for i, pixels in enumerate(RNG.integers(256 if kind == "grey" else 2, size=(30, 7, 9), dtype=np.uint8)):
        Image.fromarray(pixels * (1 if kind == "grey" else 255)).save(tmp_path / f"{i}.png")
    held = load(str(tmp_path))
    assert (held.domain.channels, held.domain.levels) == (1, 256 if kind == "grey" else 2)
    assert_equal(load(f"{tmp_path}:mapped"), held)


def test_large_folders_are_mapped_without_being_asked_unless_drawn_as_ink(photos, monkeypatch):
    held = load(str(photos))
    drawn = load(f"{photos}:binary").fingerprint()
    monkeypatch.setattr(maps, "IN_MEMORY", 3 * 9 * 7 * 54 - 1)
    assert_equal(load(str(photos)), held)
    assert load(f"{photos}:binary").fingerprint() == drawn
    with pytest.raises(Unusable, match="leave it out, or 'mapped'"):
        load(f"{photos}:binary,mapped")


def test_pictures_are_decoded_once(photos, monkeypatch):
    first = load(f"{photos}:mapped")
    monkeypatch.setattr(decoded, "_decoded", None)
    monkeypatch.setattr(decoded, "_size", None)
    assert load(f"{photos}:mapped").fingerprint() == first.fingerprint()
    with pytest.raises(TypeError, match="not callable"):
        load(f"{photos}:mapped,size=5")  # another size is decoded for itself


def test_a_small_folder_worth_it_is_decoded_once_too_and_held_in_memory(photos, monkeypatch):
    held = load(str(photos))
    monkeypatch.setattr(decoded, "WORTH_KEEPING", 1)
    assert load(str(photos)).fingerprint() == held.fingerprint()
    monkeypatch.setattr(decoded, "_decoded", None)
    again = load(str(photos))
    assert isinstance(again.train, Rows)
    assert again.fingerprint() == held.fingerprint()


def test_an_interrupted_decoding_goes_on_where_it_stopped(photos, monkeypatch):
    whole, decode, seen = load(str(photos)), decoded._decoded, []

    def interrupted(paths, size):
        seen.append(paths)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return decode(paths, size)

    with monkeypatch.context() as patch:
        patch.setattr(decoded, "_decoded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(f"{photos}:mapped")
        assert_equal(load(f"{photos}:mapped"), whole)
    assert seen[4] == seen[3]  # the first three runs were not decoded again
    assert len(seen) == 4 + 4  # of seven runs, the last four


def test_two_readers_at_once_do_no_harm(photos, monkeypatch):
    """In the middle of one decoding, another begins and ends."""
    whole, decode, seen = load(str(photos)), decoded._decoded, []

    def beside_another(paths, size):
        seen.append(paths)
        if len(seen) == 3:
            assert_equal(load(f"{photos}:mapped"), whole)
        return decode(paths, size)

    monkeypatch.setattr(decoded, "_decoded", beside_another)
    assert_equal(load(f"{photos}:mapped"), whole)


def test_a_deleted_cache_still_serves_who_has_mapped_it(text, photos, cache):
    for source in (f"{photos}:mapped", f"{text}:mapped"):
        data = load(source)
        shutil.rmtree(cache)
        held = load(source.removesuffix(":mapped"))
        assert torch.equal(data.test.rows()[0], held.test.rows()[0])


def test_a_changed_picture_is_seen(photos):
    first = load(f"{photos}:mapped")
    write_pictures(photos / "a", 3)
    changed = load(f"{photos}:mapped")
    assert changed.fingerprint() != first.fingerprint()
    assert_equal(changed, load(str(photos)))


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"\0" * len(b), lambda b: b""])
@pytest.mark.parametrize("name", ["000002.bin", "sizes.bin"])
def test_a_damaged_run_is_made_again_with_one_line(photos, cache, capsys, name, damage):
    first = load(f"{photos}:mapped")
    file = next(cache.rglob(name))
    file.write_bytes(damage(file.read_bytes()))
    capsys.readouterr()
    assert load(f"{photos}:mapped").fingerprint() == first.fingerprint()
    assert capsys.readouterr().err == f"{file} is damaged; it is made again\n"
    file.unlink()
    with quietly():
        assert load(f"{photos}:mapped").fingerprint() == first.fingerprint()
    assert capsys.readouterr().err == ""


def test_unreadable_pictures_of_a_map(photos):
    (photos / "a" / "000.png").write_bytes(b"no picture")
    whole = (photos / "b" / "003.png").read_bytes()
    (photos / "b" / "003.png").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(Unusable, match=r"unreadable.*000\.png"):
        load(f"{photos}:mapped")
    held = load(str(photos), skip_unreadable=True)
    for _ in range(2):
        assert_equal(load(f"{photos}:mapped", skip_unreadable=True), held)
    assert inspect(f"{photos}:mapped").counts == inspect(str(photos)).counts


@pytest.mark.parametrize("kind", ["text", "photos"])
def test_a_cache_that_cannot_be_written_gives_one_line(request, kind, cache, monkeypatch):
    source = request.getfixturevalue(kind)
    cache.write_text("a file")
    with pytest.raises(Unusable, match=r"cache.* cannot be written.*POFX_CACHE"):
        load(f"{source}:mapped")
    monkeypatch.setattr(decoded, "WORTH_KEEPING", 1)
    assert isinstance(load(str(source)).train, Rows | Windows)  # what fits in memory needs no cache
    cache.unlink()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Unusable, match=r"cannot be written \(No space left on device\).*POFX_CACHE"):
        load(f"{source}:mapped")
    assert not [path for path in cache.rglob("*") if path.is_file()]  # nothing half written stays


def test_rows_of_a_huge_part_are_a_fixed_fair_subset(text, photos, monkeypatch):
    monkeypatch.setattr(maps, "AT_MOST", 10 * 3 * 9 * 7)
    for source in (f"{photos}:mapped", f"{text}:mapped,length=64"):
        data = load(source)
        part = data.train
        told = f"train does not fit in memory.* {part.scored} of its {part.observations} observations"
        assert any(re.match(told, line) for line in data.problems)
        x, _ = part.rows()
        assert len(x) == min(part.observations, maps.AT_MOST // (x[0].numel() * x.element_size()))
        assert len(x) < part.observations
        assert torch.equal(x, part.rows()[0])
        index = torch.arange(part.observations) * (part.length if isinstance(part, MappedWindows) else 1)
        everything = {row.numpy().tobytes(): i for i, row in enumerate(part.take(index)[0])}
        places = [everything[row.numpy().tobytes()] for row in x]
        assert places == sorted(set(places))
        assert places != list(range(len(places)))  # not the first ones


def test_take_reads_only_the_runs_it_needs(photos):
    store = load(f"{photos}:mapped").train.store
    expected = store.read(torch.tensor([5, 17]))
    store.runs[3:] = [None] * len(store.runs[3:])
    assert torch.equal(store.read(torch.tensor([5, 17])), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 65, 1000, 4097])
def test_a_computed_order_is_a_permutation(n):
    shuffled = Shuffled(n, stream(0, "data"))
    assert shuffled[0:n].sort().values.equal(torch.arange(n))
    assert torch.equal(torch.cat([shuffled[i : i + 99] for i in range(0, n, 99)]), shuffled[0:n])
    if n > 60:
        assert not torch.equal(shuffled[0:n], Shuffled(n, stream(1, "data"))[0:n])


def test_a_computed_order_is_fair():
    """Over many keys, each place holds each of eight rows equally often (chi-square, 49 degrees of freedom)."""
    generator, counts, draws = stream(0, "data"), torch.zeros(8, 8), 1000
    for _ in range(draws):
        counts[torch.arange(8), Shuffled(8, generator)[0:8]] += 1
    expected = draws / 8
    assert float(((counts - expected) ** 2 / expected).sum()) < 49 + 5 * (2 * 49) ** 0.5


def test_a_huge_part_is_batched_without_a_stored_order_and_resumes_exactly(text, monkeypatch):
    monkeypatch.setattr(order, "STORED", 100)
    part = load(f"{text}:mapped,length=16").validation
    batches = Batches(part, 500, stream(0, "data"), torch.device("cpu"))
    assert isinstance(batches.order, Shuffled)
    for _ in range(8):  # past the end of an epoch
        batches.next()
    tensors, plain = batches.state()
    expected = [batches.next()[0][0] for _ in range(12)]
    again = Batches(part, 500, stream(7, "data"), torch.device("cpu"))
    again.load(tensors, plain)
    for x in expected:
        assert torch.equal(again.next()[0][0], x)


def test_order_of_a_small_part_is_as_ever():
    part = Rows(torch.arange(50))
    expected = torch.randperm(50, generator=stream(0, "data"))
    assert torch.equal(Batches(part, 50, stream(0, "data"), torch.device("cpu")).next()[0][0], expected)


def write_shard(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()


def write_shards(folder, names, each=6):
    """Pixels of every picture, in the order of shards."""
    pixels = RNG.integers(256, size=(len(names) * each, 8, 8, 3), dtype=np.uint8)
    for i, name in enumerate(names):
        samples = []
        for k in range(i * each, (i + 1) * each):
            samples += [(f"s/{k}.cls", str(k % 2).encode()), (f"s/{k}.png", png(pixels[k]))]
            samples += [(f"s/{k}.txt", f"word {k % 3}".encode()), (f"s/{k}.json", b"{}")]
        write_shard(folder / name, samples)
    return pixels.transpose(0, 3, 1, 2)


def test_shards_are_split_whole(tmp_path):
    pixels = write_shards(tmp_path, [f"set-{i:03}.tar" for i in range(10)])
    data = load(f"{tmp_path}:size=8", condition="class")
    assert data.split == "seeded 80/10/10 of the shards"
    shards = {name: set((index // 6).tolist()) for name, index in data.indices.items()}
    assert [len(data.part(name)) for name in SPLITS] == [48, 6, 6]
    assert [len(shards[name]) for name in SPLITS] == [8, 1, 1]
    for name in SPLITS:
        x, c = data.part(name).rows()
        np.testing.assert_array_equal(data.domain.check(x).numpy(), pixels[data.indices[name]])
        np.testing.assert_array_equal(c.numpy(), data.indices[name] % 2)
        x, _ = data.part(name).take(torch.tensor([4, 0]))
        np.testing.assert_array_equal(x.numpy(), pixels[data.indices[name][[4, 0]]])
    texts = load(f"{tmp_path}:size=8", condition="text")
    assert texts.condition.text(texts.test.rows()[1][0]) == f"word {int(data.indices['test'][0]) % 3}"
    assert any("copies are not looked for" in line for line in data.problems)


def test_shards_are_split_as_they_are_named(tmp_path):
    pixels = write_shards(tmp_path, ["test-0.tar", "x-train-0.tar", "x-train-1.tar", "x-val-0.tar"], each=12)
    data = load(f"{tmp_path}:size=8,levels=2")
    assert [len(data.part(name)) for name in SPLITS] == [24, 12, 12]
    np.testing.assert_array_equal(data.test.rows()[0].numpy(), pixels[:12] // 128)
    write_shards(tmp_path, ["other.tar"])
    with pytest.raises(Unusable, match=r"all must be.*other\.tar"):
        load(f"{tmp_path}:size=8")


def test_one_shard_is_split_by_picture(tmp_path):
    pixels = write_shards(tmp_path, ["one.tar"], each=40)
    data = load(f"{tmp_path / 'one.tar'}:size=8")
    assert data.split == "seeded 80/10/10"
    np.testing.assert_array_equal(data.train.rows()[0].numpy(), pixels[data.indices["train"]])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: write_shards(p.parent, [p.name], each=40), "", "--size 64"),
        (lambda p: write_shard(p, [("a.json", b"{}")]), ":size=8", "no pictures.*0001.jpg"),
        (lambda p: write_shard(p, [("a.png", b"x"), ("a.cls", b"cat")]), ":size=8", "no whole uncompressed tar"),
        (lambda p: p.write_bytes(b"x" * 2000), ":size=8", "no whole uncompressed tar"),
        (lambda p: write_shards(p.parent, [p.name], each=40), ":size=8,binary", "takes no binary"),
    ],
)
def test_shards_that_cannot_be_used(tmp_path, make, options, message):
    make(tmp_path / "s.tar")
    with pytest.raises(Unusable, match=message):
        load(f"{tmp_path / 's.tar'}{options}")


def test_an_unreadable_picture_of_a_shard_is_named(tmp_path):
    good = png(np.zeros((8, 8, 3), dtype=np.uint8))
    write_shard(tmp_path / "s.tar", [(f"{i}.png", b"no picture" if i == 7 else good) for i in range(30)])
    place = (tmp_path / "s.tar").read_bytes().index(b"no picture")
    store = load(f"{tmp_path / 's.tar'}:size=8").train.store
    with pytest.raises(Unusable, match=rf"at byte {place:,} of .*s\.tar is unreadable"):
        store.read(torch.tensor([3, 7, 8]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_only_the_batch_moves_to_the_device(text, photos):
    device = torch.device("cuda")
    for source in (f"{photos}:mapped", f"{text}:mapped,length=16"):
        part = load(source).train.to(device)
        before = torch.cuda.memory_allocated()
        ((x, _),) = Batches(part, 4, stream(0, "data"), device).next()
        assert x.device.type == "cuda"
        assert torch.cuda.memory_allocated() - before < 1 << 16

"""Every kind of source gives the same images, streams, and says what is wrong with it."""

import io
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from nanoinfer.batch import archives, sources
from nanoinfer.batch.items import Item, suffix
from nanoinfer.errors import InputError
from tests.batch.conftest import write_tar
from tests.cli.command_line import SAMPLES


def read(*places, column=None):
    """[(path, bytes or the error)] of the images in places."""
    found = []
    for item in sources.items([str(place) for place in places], column):
        try:
            source = item.open()
            content = source.read() if hasattr(source, "read") else open(source, "rb").read()
        except (InputError, OSError) as error:
            content = str(error)
        found.append((item.path, content))
    return found


def without_folder(found, folder):
    return [(path.replace(f"{folder}/", ""), content) for path, content in found]


@pytest.fixture
def folder(tmp_path, contents):
    """The samples in two folders, beside what is no image."""
    for name, content in contents.items():
        path = tmp_path / "images" / ("b" if "9" in name else "a") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "images" / "a" / "labels.json").write_text("{}")
    (tmp_path / "images" / ".cache").mkdir()
    (tmp_path / "images" / ".cache" / "hidden.png").write_bytes(b"")
    return tmp_path / "images"


def expected(contents, name):
    return [(name(file, number), contents[file]) for number, file in enumerate(contents)]


def test_folders_and_patterns(folder, contents):
    paths = expected(contents, lambda file, _: f"{'b' if '9' in file else 'a'}/{file}")
    assert without_folder(read(folder), folder) == paths
    assert without_folder(read(folder / "*" / "*.png"), folder) == paths
    assert without_folder(read(folder / "**" / "digit_[01].png"), folder) == paths[:2]
    assert without_folder(read(folder / "?"), folder) == paths
    assert without_folder(read(folder / "b", folder / "a" / "digit_0.png"), folder) == [paths[-1], paths[0]]
    (folder / "[x].png").write_bytes(b"a name with marks")
    assert read(folder / "[x].png") == [(str(folder / "[x].png"), b"a name with marks")]
    (empty := folder / "empty").mkdir()
    for place, problem in ((folder / "*.bmp", "no file matches"), (empty, "is a folder without images")):
        [(path, message)] = read(place)
        assert path == str(place) and message.startswith(f"{place}: {problem}")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_tar_shards(tmp_path, contents, ending):
    path = tmp_path / f"shard.{ending}"
    members = {}
    for name, content in contents.items():
        members |= {name: content, name.replace("png", "cls"): b"7", name.replace("png", "json"): b"{}"}
    write_tar(path, members, "w:" if ending == "tar" else "w:gz")
    assert read(path) == expected(contents, lambda file, _: f"{path}#{file}")
    assert read(tmp_path) == read(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    *good, (name, message) = read(path)
    assert good == expected(contents, lambda file, _: f"{path}#{file}")[: len(good)] and 0 < len(good) < 10
    assert name == str(path) and f"shard.{ending}: damaged tar file" in message
    write_tar(path, {"a.txt": b""}, "w")
    assert "holds no images" in read(path)[0][1]


def test_tar_holds_no_member_that_was_read(tmp_path, contents):
    write_tar(tmp_path / "a.tar", {f"{number}.png": b"x" for number in range(500)})
    with open(tmp_path / "a.tar", "rb") as file:
        kept = []
        for number, _ in enumerate(archives.tar_items(file, "a.tar", None)):
            if number % 50 == 49:  # a look at all objects takes a while
                kept.append(sum(len(owner.members) for owner in _tars()))
    assert len(kept) == 10 and max(kept) <= 1


def _tars():
    import gc
    import tarfile

    return [item for item in gc.get_objects() if isinstance(item, tarfile.TarFile)]


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_parquet_columns(tmp_path, contents, kind):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [*contents.values()]
    if kind == "struct":
        images = [{"bytes": content, "path": name} for name, content in contents.items()]
        images[3] = {"bytes": None, "path": str(SAMPLES[3])}
    table = pyarrow.table({"label": [1] * 12, "image": [*images, None, images[0]], "again": [b""] * 12})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    found = read(tmp_path / "a.parquet")
    rows = expected(contents, lambda _, number: f"{tmp_path / 'a.parquet'}#{number}")
    if kind == "struct":
        assert found[3] == (str(tmp_path / "a.parquet#3"), contents["digit_3.png"])
    assert (
        found[:10] == rows and found[11][1] == images[0 if kind == "bytes" else 0]["bytes"] if kind == "struct" else 1
    )
    assert "the image is missing" in found[10][1]
    assert sources.count([str(tmp_path)]) == 12
    assert "has no column 'label' of images; it has label, image, again" in read(tmp_path, column="label")[0][1]
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    assert "damaged Parquet file" in read(tmp_path / "a.parquet")[0][1]


def test_lists(folder, contents, tmp_path, monkeypatch):
    paths = [str(folder / "a" / "digit_1.png"), str(folder / "b")]
    rows = [(paths[0], contents["digit_1.png"]), (f"{paths[1]}/digit_9.png", contents["digit_9.png"])]
    lines = "\n".join(paths)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines.encode())))
    assert read("-") == rows
    (tmp_path / "l.txt").write_bytes(lines.replace("\n", "\r\n\r\n").encode())
    assert read(tmp_path / "l.txt") == rows
    (tmp_path / "l.csv").write_text(f'\ufefflabel,path\nx,"{paths[0]}"\n\ny,{paths[1]}\n', encoding="utf-8")
    assert read(tmp_path / "l.csv") == rows
    (tmp_path / "m.csv").write_text(f"label,picture\nx,{paths[0]}\n")
    assert read(tmp_path / "m.csv", column="picture") == rows[:1]
    assert "m.csv: has no column path or file; it has label, picture" in read(tmp_path / "m.csv")[0][1]
    (tmp_path / "n.txt").write_text(f"{tmp_path / 'n.txt'}\n{tmp_path}/*.png")  # neither itself nor a pattern
    assert [path for path, _ in read(tmp_path / "n.txt")] == [str(tmp_path / "n.txt"), f"{tmp_path}/*.png"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(folder):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder.parent))) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def test_addresses(folder, contents, server):
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    write_tar(folder.parent / "s.tar", contents)
    image = f"{server}/images/a/digit_1.png?size=full"
    assert read(image) == [(image, contents["digit_1.png"])]
    assert read(f"{server}/s.tar") == expected(contents, lambda file, _: f"{server}/s.tar#{file}")
    [(path, message)] = read(f"{server}/none.png")
    assert message.startswith(f"{server}/none.png: no such file; check the address")
    assert read(f"{server}/none.tar")[0][1].startswith(f"{server}/none.tar: no such file")
    assert "nosuch" in read("nosuch://a/b.png")[0][1]


def test_folders_and_patterns_of_file_systems(folder, contents):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name, content in contents.items():
        memory.pipe(f"/archive/x/{name}", content)
    memory.pipe("/archive/notes.md", b"")
    rows = expected(contents, lambda file, _: f"memory://archive/x/{file}")
    for place in ("memory://archive", "memory://archive/*/*.png"):
        found = [(path.replace(":///", "://"), content) for path, content in read(place)]
        assert found == rows


def test_what_is_missing_says_how_to_install_it(monkeypatch, tmp_path):
    for module in ("fsspec.core", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "pip install fsspec" in read("https://example.org/a.png")[0][1]
    (tmp_path / "a.parquet").write_bytes(b"")
    assert "pip install pyarrow" in read(tmp_path / "a.parquet")[0][1]


def test_counts_for_the_progress_bar(folder, tmp_path):
    write_tar(tmp_path / "a.tar", {})
    assert sources.count([str(folder), str(SAMPLES[0])]) == 11
    assert sources.count([str(folder), str(tmp_path / "a.tar")]) is None
    assert sources.count(["-"]) is sources.count(["https://example.org/a.png"]) is None


@pytest.mark.parametrize(
    ("name", "ending"),
    [("a.JPG", "jpg"), ("https://x.org/a.png?v=1.2#b", "png"), ("a.b/c", ""), ("a?.png", "png"), ("a#1.gif", "gif")],
)
def test_suffixes(name, ending):
    assert suffix(name) == ending


def test_items_say_what_they_hold():
    assert Item("a", b"1234").held_bytes == 4 and Item("a", "path").held_bytes == 0
    assert Item("x.tar#a.png", b"1").open().name == "x.tar#a.png"

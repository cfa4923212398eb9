"""Downloads against a local server that sends the file whole, cut off, altered, or not at all."""

import hashlib
import socket
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests

from pofx.data import downloads, load
from pofx.data.downloads import Remote, cache_folder, fetch, pack_amat
from pofx.errors import Unusable

NAME = "tinyshakespeare/input.txt"
TEXT = ("To be, or not to be: that is the question.\n" * 400).encode()


@dataclass
class Server:
    """What it sends next, by name: "whole", "truncated", "corrupted" or "missing"."""

    url: str = ""
    manner: str = "whole"
    content: bytes = TEXT
    asked: int = 0


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked += 1
            if state.manner == "missing":
                self.send_error(404)
                return
            body = state.content[::-1] if state.manner == "corrupted" else state.content
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.manner == "whole" or state.manner == "corrupted":
                self.wfile.write(body)
                return
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True

        def log_message(self, *args):
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{service.server_port}/input.txt"
    yield state
    service.shutdown()
    service.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch, server):
    monkeypatch.setenv("POFX_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(downloads.FILES, NAME, Remote(server.url, hashlib.sha256(TEXT).hexdigest()))
    return tmp_path / "cache"


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_whole_file_is_kept_and_not_asked_for_again(cache, server):
    assert fetch(NAME).read_bytes() == TEXT
    assert load("tinyshakespeare", length=16).domain.vocabulary == len(set(TEXT))
    assert files(cache) == [NAME]
    assert server.asked == 1


def test_a_terminal_gets_a_bar_and_a_file_does_not(cache, server, monkeypatch, capsys):
    fetch(NAME)
    assert capsys.readouterr().err == ""
    (cache / NAME).unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch(NAME)
    assert "input.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("manner", "reason"),
    [("truncated", "broke|sha256 differs"), ("corrupted", "sha256 differs"), ("missing", "answered 404")],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(cache, server, manner, reason):
    server.manner = manner
    with pytest.raises(Unusable, match=reason) as caught:
        load("tinyshakespeare")
    assert "\n" not in str(caught.value)
    assert f"put the file at {cache / NAME}" in str(caught.value)
    assert "set POFX_DATA" in str(caught.value)
    assert files(cache) == []
    server.manner = "whole"
    assert fetch(NAME).read_bytes() == TEXT


def test_refused(cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/input.txt"
    monkeypatch.setitem(downloads.FILES, NAME, Remote(url, "0" * 64))
    with pytest.raises(Unusable, match="connection refused"):
        fetch(NAME)
    assert files(cache) == []


def test_interrupted(cache, server, monkeypatch):
    received = requests.Response.iter_content

    def cut_off(response, *args, **kwargs):
        yield next(received(response, 1000))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(requests.Response, "iter_content", cut_off)
        with pytest.raises(KeyboardInterrupt):
            fetch(NAME)
    assert files(cache) == []
    assert fetch(NAME).read_bytes() == TEXT


def test_a_damaged_cached_file_is_fetched_again(cache, server):
    (cache / NAME).parent.mkdir(parents=True)
    (cache / NAME).write_bytes(TEXT[:-1])
    assert fetch(NAME).read_bytes() == TEXT
    (cache / NAME).write_bytes(b"my own")
    server.manner = "corrupted"
    with pytest.raises(Unusable):
        fetch(NAME)
    assert (cache / NAME).read_bytes() == b"my own"


def test_a_cache_that_cannot_be_written(cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("POFX_DATA", str(tmp_path / "file"))
    with pytest.raises(Unusable, match="cannot be written"):
        fetch(NAME)


def test_an_empty_variable_counts_as_unset(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("POFX_DATA", "")
    assert cache_folder().name == "pofx"
    monkeypatch.setenv("POFX_DATA", "~/pictures")
    assert cache_folder().name == "pictures"
    assert "~" not in str(cache_folder())


def test_amat_text_is_packed_and_kept_packed(cache, server, monkeypatch):
    bits = np.random.default_rng(0).integers(2, size=(20, 784), dtype=np.uint8)
    server.content = "".join(" ".join(map(str, row)) + "\n" for row in bits).encode()
    np.testing.assert_array_equal(np.unpackbits(pack_amat(server.content), axis=1), bits)

    packed = hashlib.sha256(np.packbits(bits, axis=1).tobytes()).hexdigest()
    remote = Remote(server.url, hashlib.sha256(server.content).hexdigest())
    monkeypatch.setattr(downloads, "AMAT", dict.fromkeys(("train", "valid", "test"), remote))
    monkeypatch.setattr(downloads, "PACKED", dict.fromkeys(("train", "valid", "test"), packed))
    server.manner = "truncated"
    with pytest.raises(Unusable, match=r"binarized_mnist\.npz"):
        load("binarized-mnist")
    assert files(cache) == []

    server.manner = "whole"
    data = load("binarized-mnist")
    assert torch_equal(data.test.rows()[0], bits)
    assert files(cache) == ["binarized-mnist/binarized_mnist.npz"]
    asked = server.asked
    load("binarized-mnist")
    assert server.asked == asked


def torch_equal(x, bits):
    return np.array_equal(x.numpy().reshape(-1, 784), bits)

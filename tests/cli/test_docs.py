"""The pages' builder: it runs what the pages claim, and stops where a claim fails."""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("docs_build", HERE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(folder, **texts):
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text)
    return folder


def test_examples_run_and_show_what_they_print(builder, tmp_path):
    text = (
        "# One\n```python\na = 6\nopen('x.png', 'w')\n```\n![](x.png) [two](two.md)\n```python\nprint(a * '<')\n```\n"
    )
    written = builder.build(pages(tmp_path / "docs", one=text, two="# Two\n"), tmp_path / "site")
    assert [page.name for page in written] == ["one.html", "two.html"]
    assert "&lt;&lt;&lt;&lt;&lt;&lt;" in written[0].read_text()
    assert 'href="two.html"' in written[0].read_text()


def test_a_failing_example_and_a_dead_link_are_named(builder, tmp_path):
    with pytest.raises(builder.BrokenExample, match=r"one.md, the example at line 4: ZeroDivisionError"):
        builder.build(pages(tmp_path / "a", one="# One\n\n```python\n1 / 0\n```\n"), tmp_path / "site")
    with pytest.raises(builder.BrokenExample, match=r"one.html points at two.html, which is not there"):
        builder.build(pages(tmp_path / "b", one="# One\n[two](two.md)\n"), tmp_path / "site")


@pytest.mark.parametrize("page", sorted(path.name for path in HERE.glob("*.md")))
def test_pages_compile(builder, page):
    for block in builder.BLOCK.findall((HERE / page).read_text(encoding="utf-8")):
        compile(block, page, "exec")

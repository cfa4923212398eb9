"""Builds the pages: Markdown whose Python blocks are run, with what they print and draw set below them.

    python docs/build.py build/docs

The blocks of a page share their names and run in the folder that is built, so a picture saved as ``sheet.png`` is shown
by ``![samples](sheet.png)``. A block that fails stops the build and says which.
"""

import contextlib
import io
import os
import re
import shutil
import sys
import textwrap
import traceback
from pathlib import Path

import markdown

HERE = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
SUFFIXES = (".png", ".svg", ".jpg")


class BrokenExample(Exception):
    """An example of a page failed, or a page points at nothing."""


def build(source, target):
    """Every page of ``source`` into ``target``; returns the files written."""
    shutil.rmtree(target, ignore_errors=True)  # a run of the last build would not be written over
    target.mkdir(parents=True)
    for picture in (p for p in source.iterdir() if p.suffix in SUFFIXES):
        shutil.copy(picture, target)
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(source.glob("*.md"))}
    ordered = sorted(pages, key=lambda path: (path.stem != "index", path.stem))
    links = [(f"{path.stem}.html", title_of(pages[path])) for path in ordered]
    written = []
    for path in ordered:
        text = executed(pages[path], path.name, target)
        body = markdown.markdown(text, extensions=["fenced_code", "tables", "toc"])
        body = re.sub(r'href="([\w-]+)\.md(#[\w-]*)?"', r'href="\1.html\2"', body)
        menu = "".join(
            f'<a href="{link}"{" class=here" if link == path.stem + ".html" else ""}>{title}</a>'
            for link, title in links
        )
        page = (HERE / "template.html").read_text(encoding="utf-8")
        for name, value in (("title", title_of(text)), ("menu", menu), ("body", body)):
            page = page.replace("{{ " + name + " }}", value)
        written.append(target / f"{path.stem}.html")
        written[-1].write_text(page, encoding="utf-8")
    for page in written:
        check_links(page)
    return written


def executed(text, name, folder):
    """The page with the output of each Python block below it."""
    names = {"__name__": "__docs__"}

    def run(found):
        line = text[: found.start()].count("\n") + 2
        out = io.StringIO()
        try:
            code = compile("\n" * (line - 1) + found[1], name, "exec")
            with contextlib.redirect_stdout(out), working_in(folder):
                exec(code, names)
        except Exception as error:
            told = "".join(traceback.format_exception_only(error)).strip()
            raise BrokenExample(f"{name}, the example at line {line}: {told}") from error
        printed = textwrap.dedent(out.getvalue()).rstrip()
        return found[0] + (f"\n```text\n{printed}\n```\n" if printed else "")

    return BLOCK.sub(run, text)


@contextlib.contextmanager
def working_in(folder):
    """The examples' folder is the current one inside."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def check_links(page):
    """Every picture and page that is pointed at is there."""
    for link in re.findall(r'(?:href|src)="([^"#:]+)(?:#[^"]*)?"', page.read_text(encoding="utf-8")):
        if not (page.parent / link).exists():
            raise BrokenExample(f"{page.name} points at {link}, which is not there")


def title_of(text):
    """The first heading."""
    return next(line.removeprefix("# ").strip() for line in text.splitlines() if line.startswith("# "))


if __name__ == "__main__":
    try:
        for file in build(HERE, Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs")):
            print(file)
    except BrokenExample as error:
        sys.exit(f"docs: {error}")

"""Builds the API reference as HTML in build/docs. The page of each package begins with its README."""

import importlib
import os
import pkgutil
import re
import sys
import warnings
from pathlib import Path
from unittest.mock import MagicMock

import pdoc

import reactor

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "docs"

# PyGObject is a package of the system, not of an index; the page of `reactor.embed.glib` needs nothing of it.
sys.modules["gi"] = sys.modules["gi.repository"] = MagicMock()

MODULES = ["bench", "reactor"] + [
    module.name
    for module in pkgutil.walk_packages(reactor.__path__, "reactor.")
    if not module.name.endswith("__main__")
]
READMES = {
    readme: name
    for name in MODULES
    if (readme := ROOT / ("" if name == "reactor" else name.replace(".", "/")) / "README.md").is_file()
}
LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:)([^)#]+)\)")
FILE_IN_TABLE = re.compile(r"(?<=[| ])`(\w+)\.py`(?=[^|\n]*\|.*\|)")
PARAMETERS = re.compile(r"^(\w+(?:, \w+)*): (.*(?:\n    .*)*)\n?", re.MULTILINE)


def page(name: str) -> Path:
    """Return the path of a module's page, below `OUT`."""
    return Path(name.replace(".", "/") + ".html")


def page_text(readme: Path, name: str) -> str:
    """Return a README as the page of the module `name` has it: without its title, linked to other pages."""

    def link_to(text: str, target: str) -> str:
        return f"[{text}]({os.path.relpath(page(target), page(name).parent)})"

    def relink(match: re.Match[str]) -> str:
        target = READMES.get((readme.parent / match[2]).resolve())
        return match[1] if target is None else link_to(match[1], target)

    def link_file(match: re.Match[str]) -> str:
        module = f"{name}.{match[1]}"
        return link_to(match[0], module) if module in MODULES else match[0]

    _, _, text = readme.read_text(encoding="utf-8").partition("\n")
    return FILE_IN_TABLE.sub(link_file, LINK.sub(relink, text))


def markdown(docstring: str) -> str:
    """Return a docstring as Markdown: a list of its parameters."""
    if docstring in texts:
        return docstring
    return PARAMETERS.sub(r"\n- **\1**: \2\n\n", docstring)


def dead_links() -> list[str]:
    """Return the relative links in the pages that lead to no file."""
    return [
        f"{file.relative_to(OUT)}: {link}"
        for file in OUT.rglob("*.html")
        for link in re.findall(r'href="([^"#:?$]+)(?:#[^"]*)?"', file.read_text(encoding="utf-8"))
        if not (file.parent / link).is_file()
    ]


texts = set()
for readme, name in READMES.items():
    module = importlib.import_module(name)
    module.__doc__ = page_text(readme, name)
    for public in getattr(module, "__all__", ()):  # those that are imported at first use, too
        setattr(module, public, getattr(module, public))
    texts.add(module.__doc__.strip())
pdoc.render.configure(docformat="markdown", mermaid=True, show_source=False)
pdoc.render.env.filters["to_markdown"] = markdown
# pdoc adds the modules of a package by itself, unless its `__all__` leaves them out.
warnings.filterwarnings("ignore", "The module specification .* has already been added")
# An annotation that only type checkers evaluate: `itertools.count` has no `[]`.
warnings.filterwarnings("ignore", r"Error parsing type annotation count\[int\]")
# Of the benchmarks the README alone: they are not in the wheel, and need what only they use.
pdoc.pdoc(*MODULES, "!bench.cases", "!bench.harness", output_directory=OUT)
if dead := dead_links():
    sys.exit("\n".join(["links that lead nowhere:", *dead]))

"""What the site shows and nobody types: the reference, the results, and files of the repository that pages link to.

MkDocs calls `on_config`, `on_files` and `on_page_markdown` (see `hooks` in mkdocs.yml).
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import commands, configuration, exit_codes, files_of_a_run, python, table

REPO = Path(__file__).resolve().parent.parent
SOURCE = "source"  # folder of the site for files of the repository that are no pages
_LINK = re.compile(r"(\]\(|^\[[^\]]+\]: )(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?", re.MULTILINE)
_AS_IT_IS = (".png", ".html", ".xz")  # files that the site has as they are
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".sh": "sh", ".sbatch": "sh"}
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


# --- what MkDocs calls ----------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that mkdocs.yml does not name at the end of How-to."""
    named = re.findall(r"[\w/.-]+\.md", json.dumps(config.nav))
    (how_to,) = [entry["How-to"] for entry in config.nav or () if "How-to" in entry]
    how_to += sorted({page.name for page in (REPO / "docs").glob("*.md")} - set(named))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and those files of the repository that any page links to, or that these link to."""
    pages = {
        "reference/commands.md": commands(),
        "reference/config.md": configuration(),
        "reference/files.md": files_of_a_run(),
        "reference/exit-codes.md": exit_codes(),
        "reference/python.md": python(),
        "results.md": results(),
    }
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    written = [REPO / "docs" / f.src_uri for f in files.documentation_pages() if f.src_uri not in pages]
    of_pages = [target for uri, text in pages.items() for target in linked(text, (REPO / "docs" / uri).parent)]
    for path in sorted(closure([*written, *of_pages])):
        if path.is_relative_to(REPO / "docs"):
            continue
        if path.suffix in _AS_IT_IS:
            files.append(File.generated(config, site_uri(path), abs_src_path=str(path)))
        else:
            files.append(File.generated(config, site_uri(path), content=shown(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files of the repository to where the site has them."""
    here = Path(page.file.src_uri)
    at = REPO / "docs" / here
    if here.parts[0] == SOURCE:
        at = REPO / here.relative_to(SOURCE)

    def lead(found: re.Match[str]) -> str:
        target = (at.parent / found[2]).resolve()
        if not target.exists() or not target.is_relative_to(REPO):
            return found[0]  # generated, or wrong: MkDocs says so
        return f"{found[1]}{posixpath.relpath(site_uri(target), str(here.parent))}{found[3] or ''}"

    markdown = _outside_code(markdown, lambda text: _LINK.sub(lead, text)).replace("<!-- gap -->", gap_picture())
    return re.sub(r"<!-- file (\S+) -->", lambda found: code_block(REPO / found[1]), markdown)


# --- files of the repository ----------------------------------------------------------------------------------------


def site_uri(path: Path) -> str:
    """Where the site has a file of the repository."""
    inside = path.relative_to(REPO)
    if inside.parts[0] == "docs":
        return str(inside.relative_to("docs"))
    return f"{SOURCE}/{inside}" if path.suffix in (".md", *_AS_IT_IS) else f"{SOURCE}/{inside}.md"


def shown(path: Path) -> str:
    """A file as a page: Markdown as it is, a folder as its list, all else as code."""
    if path.is_dir():
        names = sorted(f"- [{p.name}]({path.name}/{p.name})" for p in path.iterdir() if p.is_file())
        return f"# {path.relative_to(REPO)}/\n\n" + "\n".join(names) + "\n"
    if path.suffix == ".md":
        return path.read_text()
    return f"# {path.relative_to(REPO)}\n\n{code_block(path)}"


def code_block(path: Path) -> str:
    """A file as a block of code."""
    language = _LANGUAGES.get(path.suffix, "text")
    return f'````{language} title="{path.relative_to(REPO)}"\n{path.read_text().rstrip()}\n````\n'


def linked(text: str, folder: Path) -> Iterator[Path]:
    """Files of the repository that a Markdown text in `folder` links to."""
    for found in _LINK.finditer(_CODE.sub("", text)):
        target = (folder / found[2]).resolve()
        if target.exists() and target.is_relative_to(REPO):
            yield target


def closure(paths: Iterable[Path]) -> set[Path]:
    """`paths`, and all that they link to by way of Markdown."""
    found, left = set[Path](), list(paths)
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            if path.is_dir():
                left += [p for p in path.iterdir() if p.is_file()]
            elif path.suffix == ".md":
                left += linked(path.read_text(), path.parent)
    return found


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    parts, place = [], 0
    for block in _CODE.finditer(markdown):
        parts += [change(markdown[place : block.start()]), block[0]]
        place = block.end()
    return "".join([*parts, change(markdown[place:])])


# --- results --------------------------------------------------------------------------------------------------------


def results() -> str:
    """What results/README.md says, each study's tables from its report.json, then what was measured."""
    parts = [_moved((REPO / "results/README.md").read_text(), "results")]
    for path in sorted((REPO / "results").glob("*/report.json")):
        parts += study_section(path.parent)
    demo = (REPO / "bench/results/demo.md").read_text()
    parts.append(_moved(re.sub(r"^# .*", "## The demo, five seeds", demo), "bench/results"))
    overview = (REPO / "bench/README.md").read_text().split("\n## ")[0]
    parts.append(_moved(re.sub(r"^# .*", "## What is measured, and its target", overview), "bench"))
    parts.append("## What each script printed\n")
    for path in sorted((REPO / "bench/results").glob("*.txt")):
        parts.append(
            f"- [{path.stem}](../bench/results/{path.name}): {path.read_text().split('. ')[0].splitlines()[0]}"
        )
    return "\n".join(parts) + "\n"


def study_section(place: Path) -> list[str]:
    """A published study: its pictures, the tables of report.json, and the commands that made it."""
    report, about = (json.loads((place / name).read_text()) for name in ("report.json", "about.json"))
    here = f"../results/{place.name}"
    files = [name for name in ("report.html", "report.json", "about.json", "runs.tar.xz") if (place / name).exists()]
    pictures = [f"![{path.stem}]({here}/{path.name})" for path in sorted(place.glob("*.png"))]
    tables = [t for t in report["tables"] if t["name"].startswith(("accuracy", "gaps", "changes", "tests"))]
    hours = sum(about["hours_of_training"].values())
    versions = "; ".join(about["versions"])
    return [
        f"## Study {place.name}\n\n{about['asks'][0].upper()}{about['asks'][1:]}.\n",
        "Files: " + ", ".join(f"[{name}]({here}/{name})" for name in files) + "\n",
        *pictures,
        *(f"\n### {t['title']}\n\n{table(t['header'], t['rows'])}" for t in tables),
        f"\n{hours:.1f} hours of training on one core each ({about['processor']}; {versions}):\n",
        "```sh\n" + "\n".join(about["commands"]) + "\n```\n",
    ]


def gap_picture() -> str:
    """The gaps of the demo's five seeds as SVG: the table in bench/results/demo.md."""
    text = (REPO / "bench/results/demo.md").read_text().replace("−", "-")
    number = r"([+-]?\d+\.\d)"
    found = re.findall(rf"^\| (\d.*?) \| +{number} \| +{number} to {number} \|", text, re.MULTILINE)
    assert len(found) == 4, "bench/results/demo.md has no table of four gaps"
    low, high, width, row = -5.0, 25.0, 620, 44

    def x(points: str | float) -> float:
        return 230 + (float(points) - low) / (high - low) * (width - 250)

    bottom = row * len(found) + 8
    lines = [
        f'<line x1="{x(p)}" x2="{x(p)}" y1="0" y2="{bottom}" stroke-opacity="{0.8 if p == 0 else 0.15}"/>'
        f'<text x="{x(p)}" y="{bottom + 18}" text-anchor="middle">{p:+d}</text>'.replace("+0", "0")
        for p in range(-5, 26, 5)
    ]
    for i, (name, mean, least, most) in enumerate(found):
        y = row * i + row // 2
        lines.append(
            f'<text x="0" y="{y + 5}">{name.replace(" × 2", "")}</text>'
            f'<line x1="{x(least)}" x2="{x(most)}" y1="{y}" y2="{y}" stroke-width="6" opacity="0.5" class="gap"/>'
            f'<circle cx="{x(mean)}" cy="{y}" r="6" class="gap"/>'
            f'<text x="{x(mean)}" y="{y - 10}" text-anchor="middle">{mean}</text>'
        )
    title = "GN less BN in points of top-1 accuracy, means of five seeds with 95 % intervals"
    return (
        f'<svg class="picture" viewBox="0 0 {width} {bottom + 26}" role="img" stroke="currentColor">'
        f"<title>{title}</title>{''.join(lines)}</svg>"
    )


def _moved(text: str, folder: str) -> str:
    """A Markdown text of another folder, its links seen from docs/."""
    return _LINK.sub(lambda m: f"{m[1]}{posixpath.normpath(f'../{folder}/{m[2]}')}{m[3] or ''}", text)

"""What MkDocs does with pages before it builds them: it adds those that are made, and mends links out of the site."""

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from decisions import collect, to_markdown  # noqa: E402

ROOT = Path(__file__).parents[2]
DECISIONS = "<!-- decisions -->"
_OUTWARD = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#]*)(?:#[^)]*)?\)")
_log = get_plugin_logger("iterconv")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Turn each notebook into a page with its pictures."""
    import nbconvert

    exporter = nbconvert.MarkdownExporter()
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        body, resources = exporter.from_filename(str(path), {"output_files_dir": f"{path.stem}_files"})
        own: dict[str, Any] = {f"notebooks/{path.stem}.md": _without_terminal_colours(body)}
        own |= {f"notebooks/{name}": contents for name, contents in resources["outputs"].items()}
        for name, contents in own.items():
            files.append(File.generated(config, name, content=contents))
        files.remove(files.src_uris[f"notebooks/{path.name}"])
    return files


def _without_terminal_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Put the decisions into their page, and turn links to files outside of the site into their names."""
    if DECISIONS in markdown:
        markdown = markdown.replace(DECISIONS, to_markdown(collect(ROOT / "src" / "iterconv")))
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def mend(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return link[0]
        if not target.exists():
            _log.warning(f"{page.file.src_uri} links to {link[2]}, which is not there")
        name = str(target.relative_to(ROOT))
        return f"`{name}`" if link[1].strip("`/") in name else f"{link[1]} (`{name}`)"

    return _OUTWARD.sub(mend, markdown)

"""Render sections to one self-contained HTML file, with figures and tables beside it as files too."""

import platform
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment

from iterconv.errors import InputError
from iterconv.figures.style import save
from iterconv.report.sections import Section, make_section
from iterconv.reports import write_atomically
from iterconv.studies.catalogue import Scale, Study


def render(studies: list[Study], scale: Scale, root: Path) -> Path:
    """Write the report of studies from their finished runs.

    Args:
        studies: What to report on.
        scale: At which scale.
        root: The folder of all runs; the report goes to ``root/report-<scale>/``.

    Returns:
        The HTML file.

    Raises:
        InputError: If not a single run is finished, or a file is damaged or can't be written.
    """
    sections = [make_section(study, scale, root) for study in studies]
    if all(section.runs.empty for section in sections):
        raise InputError(f"no run of scale {scale.name!r} is finished in {root}; run `iterconv reproduce` first")
    folder = root / f"report-{scale.name}"
    try:
        text = _template().render(
            scale=scale,
            sections=[(section, _write_parts(section, folder)) for section in sections],
            facts=_facts(sections),
        )
        write_atomically(folder / "index.html", text.encode())
    except OSError as problem:
        raise InputError(f"can't write to {folder} ({problem.strerror}); make room or choose another --out") from None
    return folder / "index.html"


def _template():  # type: ignore[no-untyped-def]
    source = files("iterconv.report").joinpath("template.html").read_text()
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)


def _write_parts(section: Section, folder: Path) -> list[tuple[str, str]]:
    """Write figures and tables as files; (SVG, caption) of each figure."""
    name = section.study.name
    if not section.runs.empty:
        write_atomically(folder / f"{name}-runs.csv", section.runs.to_csv(index=False).encode())
        write_atomically(folder / f"{name}-summary.csv", section.table.to_csv(index=False).encode())
    drawn = [
        (save(picture.figure, folder / picture.name), picture.name, picture.caption) for picture in section.pictures
    ]
    # Inlined drawings share one page: their internal names must not collide.
    return [(_own_names(svg, name), caption) for svg, name, caption in drawn]


def _own_names(svg: str, prefix: str) -> str:
    return (
        svg.replace('id="', f'id="{prefix}-')
        .replace("url(#", f"url(#{prefix}-")
        .replace('href="#', f'href="#{prefix}-')
    )


def _facts(sections: list[Section]) -> dict[str, str]:
    runs = [section.runs for section in sections if not section.runs.empty]
    distinct = {name for table in runs for name in table["name"]}
    return {
        "Finished runs": str(len(distinct)),
        "Devices": ", ".join(sorted({device for table in runs for device in table["device"]})),
        "torch": ", ".join(sorted({version for table in runs for version in table["torch"]})),
        "Machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "Test images": ", ".join(sorted({str(n) for table in runs for n in table["test_examples"]})),
    }

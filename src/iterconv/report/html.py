"""One self-contained HTML file for a report, with its figures and tables beside it as files too."""

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, Template

from iterconv.claims.telling import describe, summarise, verdict_table
from iterconv.claims.verdicts import judge_all, scale_of
from iterconv.errors import InputError
from iterconv.figures.claims import draw_claims
from iterconv.figures.style import save
from iterconv.files import write_atomically
from iterconv.report.sections import Section, make_section
from iterconv.studies.study import Scale, Study, command_of
from iterconv.studies.tables import Tables, machine


def render(studies: list[Study], scale: Scale, tables: Tables, root: Path) -> Path:
    """Write the report of studies from their finished runs.

    Args:
        studies: The studies.
        scale: Their scale.
        tables: The tables of the studies' finished runs.
        root: The folder of all runs; the report goes to ``root/report-<scale>/``.

    Returns:
        The HTML file.

    Raises:
        InputError: If a file can't be written.
    """
    sections = [make_section(study, scale, tables) for study in studies]
    judgements = judge_all(tables)
    folder = root / f"report-{scale.name}"
    try:
        tables.save(folder / "tables", {"command": command_of(studies, scale), "scale": scale_of(tables)})
        matrix = verdict_table(judgements)
        write_atomically(folder / "tables" / "claims.csv", matrix.to_csv(index=False).encode())
        text = _load_template().render(
            matrix=_prefix_names(save(draw_claims(matrix), folder / "claims"), "claims") if len(matrix) else "",
            summarise=summarise,
            scale=scale,
            sections=[(section, _write_parts(section, folder)) for section in sections],
            judgements=judgements,
            describe=describe,
            facts=_state_facts(tables),
        )
        write_atomically(folder / "index.html", text.encode())
    except OSError as problem:
        raise InputError(f"can't write to {folder} ({problem.strerror}); make room or choose another --out") from None
    return folder / "index.html"


def _load_template() -> Template:
    source = files("iterconv.report").joinpath("template.html").read_text()
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)


def _write_parts(section: Section, folder: Path) -> list[tuple[str, str]]:
    """Write a section's figures and table as files; returns SVG and caption of each figure."""
    name = section.study.name
    if section.finished:
        write_atomically(folder / f"{name}-summary.csv", section.table.to_csv(index=False).encode())
    drawn = [
        (save(picture.figure, folder / picture.name), picture.name, picture.caption) for picture in section.pictures
    ]
    # Inlined drawings share one page: their internal names must not collide.
    return [(_prefix_names(svg, name), caption) for svg, name, caption in drawn]


def _prefix_names(svg: str, prefix: str) -> str:
    """Give a drawing internal names of its own."""
    return (
        svg.replace('id="', f'id="{prefix}-')
        .replace("url(#", f"url(#{prefix}-")
        .replace('href="#', f'href="#{prefix}-')
    )


def _state_facts(tables: Tables) -> dict[str, str]:
    here, runs = machine(), tables.runs
    facts = {
        "Experiments": scale_of(tables),
        "Report made on": f"{here['processor']}, {here['cores']} cores, {here['system']}, Python {here['python']}",
    }
    if len(runs):
        facts["Runs made on"] = (
            f"{', '.join(sorted(set(runs['device'])))}; torch {', '.join(sorted(set(runs['torch'])))}"
        )
        facts["Test images"] = ", ".join(str(n) for n in sorted(set(runs["test_examples"])))
    return facts

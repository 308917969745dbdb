"""Puts the measured results into the site as they are in the repository, so that there is one copy of each number."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add ``results.md`` and its figures to the files of the site."""
    files.append(File.generated(config, "results.md", abs_src_path=str(BENCHMARKS / "RESULTS.md")))
    for figure in sorted((BENCHMARKS / "figures").iterdir()):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    return files

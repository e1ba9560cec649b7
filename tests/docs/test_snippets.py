"""Every snippet of the README and the docs, run in order in a folder of its own."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bnlstm_deploy.checkpoint.parse import parse_layout
from tests.cli.command import on_path, run_python

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]
SNIPPET = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

RUN_BY_CI = ("make demo\n", "make test\n", "make test-slow\n")
"""Snippets that .ci/run runs: they make the environment that these tests run in."""


def snippets(page):
    return [
        (language, code)
        for language, code in SNIPPET.findall((ROOT / page).read_text())
        if code not in RUN_BY_CI
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_snippets_run_as_printed(page, tmp_path, tmp_path_factory):
    for folder in ("models", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    python = "".join(code for language, code in snippets(page) if language == "python")
    results = []
    with on_path(tmp_path_factory.mktemp("shell")) as environment:
        for code in (code for language, code in snippets(page) if language == "bash"):
            command = ["bash", "-euo", "pipefail", "-c", code]
            options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
            results.append(subprocess.run(command, **options, check=False, timeout=600))
        if python:
            results.append(run_python(python, tmp_path, environment))
    for result in results:
        assert result.returncode == 0, result.stdout + result.stderr


def test_all_languages_are_run():
    languages = {
        language for page in PAGES for language, _ in SNIPPET.findall((ROOT / page).read_text())
    }
    assert languages <= {"bash", "python", "toml"}


@pytest.mark.parametrize("page", PAGES)
def test_layouts_in_the_text_are_valid(page):
    for language, code in snippets(page):
        if language == "toml":
            parse_layout(code, "snippet", page)


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"

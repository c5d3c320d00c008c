"""What README and docs/ show is true: commands and code run as written, links lead somewhere.

All ```bash and ```python blocks of a document run in their order, in one folder and one Python namespace.
A comment before a block says otherwise, and why:

    <!-- not run: needs Kodak -->     commands are only checked: they exist, with these options and keys
    <!-- fails -->                    its command ends with an error

Blocks without a language count as commands if their first line begins like one.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from ambi_rl.cli.app import app
from ambi_rl.cli.study import _sorted_out
from ambi_rl.cli.train import _split, check_overrides

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]

README_NOT_RUN = {
    "make demo": "takes minutes; CI has jobs for both",
    "ambi bench KODAK": "needs Kodak, and an hour",
    "ambi train -m experiment=demo": "trains six policies",
    "ambi runs runs/agents": "shows what those six became",
    "cp conf/reward/ms_ssim.yaml": "writes into the repository and trains for minutes",
    "ambi train data=folder": "trains for hours",
    "ambi train experiment=breakout_short": "tests/test_feature_run.py trains it",
    "ambi train experiment=superres_short": "tests/test_superres_run.py trains it",
}
"""By how the block begins: the README has no comments of its own, for it is also the package's page."""

_WRITTEN = ("bash", "sh", "python")
_PROGRAMS = ("ambi", "python", "make", "pip", "git", "tensorboard")
_HARMLESS = {"cp", "mkdir", "cd", "ls", "cat", "rm", "export", "source", ".", "sha256sum"}
_HARMLESS |= {"tensorboard", "git"}
_MARK = re.compile(r"\s*<!-- (not run|fails)(?:: (.*))? -->")
_MANY_SECONDS = 300


def _shown(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    Attributes:
        document: Where it stands.
        line: Of its fence, from 1.
        language: What is behind the fence; "bash" for all shells.
        code: Without the indentation of the fence.
        mark: "" for a block that runs, "not run" or "fails".
        reason: Why it is not run.
    """

    document: Path
    line: int
    language: str
    code: str
    mark: str
    reason: str

    @property
    def place(self) -> str:
        """For messages and the names of tests."""
        return f"{_shown(self.document)}:{self.line}"


def _language(written: str, code: str) -> str:
    if written in ("bash", "sh", "shell", "console"):
        return "bash"
    first = code.lstrip().partition("\n")[0].split(" ")[0].rsplit("/", 1)[-1]
    return "bash" if not written and first in _PROGRAMS else written


def _marked(document: Path, code: str, before: str) -> tuple[str, str]:
    """Mark of a block and its reason."""
    mark = _MARK.fullmatch(before)
    if mark:
        return mark[1], mark[2] or ""
    if document == README:
        for start, reason in README_NOT_RUN.items():
            if code.startswith(start):
                return "not run", reason
    return "", ""


def blocks_of(document: Path) -> list[Block]:
    """Every fenced block."""
    found: list[Block] = []
    lines = document.read_text().splitlines()
    at = 0
    while at < len(lines):
        fence = re.fullmatch(r"( *)```(\w*)", lines[at])
        if fence:
            end = lines.index(f"{fence[1]}```", at + 1)
            code = "".join(f"{line.removeprefix(fence[1])}\n" for line in lines[at + 1 : end])
            mark, reason = _marked(document, code, lines[at - 1] if at else "")
            language = _language(fence[2], code)
            found.append(Block(document, at + 1, language, code, mark, reason))
            at = end
        at += 1
    return found


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
CODE = [block for block in BLOCKS if block.language in ("bash", "python")]
RUN = [block for block in CODE if block.mark != "not run"]
NOT_RUN = [block for block in CODE if block.mark == "not run"]


@pytest.fixture
def desk(
    tmp_path: Path,
    photograph: Image.Image,
    tiny_photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder of a reader: files that documents name, and `ambi` and `python` on the path."""
    photograph.save(tmp_path / "photo.png")
    photograph.save(tmp_path / "photo.jpg")
    shutil.copytree(tiny_photographs, tmp_path / "PHOTOGRAPHS")
    shutil.copy(ROOT / "conf" / "study" / "default.yaml", tmp_path / "mine.yaml")
    (tmp_path / "my_package").mkdir()
    for module in ("my_module.py", "my_package/my_module.py"):
        (tmp_path / module).write_text("def my_cost(original, decoded): return 1.0\n")
    (tmp_path / "classifier.pt2").touch()
    programs = tmp_path / ".bin"
    programs.mkdir()
    for name, arguments in (("ambi", " -m ambi_rl.cli"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _run(block: Block, namespace: dict[str, Any]) -> None:
    """Run a block that is marked to run.

    Raises:
        AssertionError: It fails, or was to fail and does not.
    """
    print(f"\n--- {block.place}\n{block.code}")
    if block.language == "python":
        exec(compile(block.code, block.place, "exec"), namespace)  # noqa: S102 - our own
        return
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_MANY_SECONDS,
        check=False,
    )
    print(done.stdout)
    assert (done.returncode != 0) == (block.mark == "fails"), f"{block.place}\n{done.stdout}"


@pytest.mark.slow
@pytest.mark.usefixtures("desk")
@pytest.mark.filterwarnings("ignore:.*Box observation space.*")
@pytest.mark.filterwarnings("ignore:.*(render|deterministic).*")
@pytest.mark.parametrize("document", sorted({block.document for block in RUN}), ids=_shown)
def test_document_runs_from_top_to_bottom(document: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in RUN:
        if block.document == document:
            _run(block, namespace)


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.place)
def test_what_is_not_run_could_be(block: Block) -> None:
    assert len(block.reason.split()) > 1, f"{block.place} is not run, but does not say why"
    if block.language == "python":
        _check_python(block)
    else:
        _check_commands(block)
    pytest.skip(f"{block.place} is checked, but not run: {block.reason}")


WRONG = {
    "ambi trian": "No such command",
    "ambi encode photo.png photo.ambi --qualty 3": "No such option",
    "ambi export runs/a": "Missing",
    "ambi encode photo.png photo.ambi -e 12": "less than or equal to 9",
    "ambi runs campare runs/a": "Got unexpected extra argument",
    "ambi train agent.learning_rte=1": "learning_rte",
    "ambi train -m seed=1,2 agent=ppo,pppo": "pppo",
    "ambi train -m hydra/launcher=slrum seed=1,2": "slrum",
    "ambi study name=x study.trails=3": "trails",
    "python scripts/bench_efforts.py PHOTOGRAPHS --evry 4": "has no --evry",
    "python scripts/bench_effort.py PHOTOGRAPHS": "there is no scripts/bench_effort.py",
    "make demo && make tset": "tset",
    "pip install 'ambi-rl[trian]'": "trian",
    "frobnicate photo.png | ambi info -": "frobnicate",
}
"""Commands that documents must not show, and a word of what is said about them."""


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("line", WRONG)
def test_mistakes_in_commands_are_noticed(line: str) -> None:
    block = Block(README, 1, "bash", line, "not run", "it is wrong")
    with pytest.raises(Exception, match=re.escape(WRONG[line])):
        _check_commands(block)


def test_every_mark_belongs_to_a_block() -> None:
    for document in DOCUMENTS:
        marks = sum(bool(_MARK.fullmatch(line)) for line in document.read_text().splitlines())
        marked = [block for block in blocks_of(document) if block.mark]
        of_readme = [start for start in README_NOT_RUN if document == README]
        assert marks + len(of_readme) == len(marked), f"{document.name}: a mark without a block"
        assert all(block in CODE for block in marked), f"{document.name}: a mark without code"


# Commands that are not run ------------------------------------------------------------------------------


def commands(code: str) -> Iterator[list[str]]:
    """Simple commands of a shell block: without comments, settings of variables, redirections."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        tokens = iter([*lexer, ";"])
        for token in tokens:
            if set(token) <= set("|&;"):
                if words:
                    yield words
                words = []
            elif set(token) <= set("<>"):
                next(tokens)
            elif words or not re.fullmatch(r"\w+=.*", token):
                words.append(token)


def _check_commands(block: Block) -> None:
    for words in commands(block.code):
        _check_command(words, block)


def _check_command(words: Sequence[str], block: Block) -> None:
    """See that a command exists and has the options that are given.

    Raises:
        AssertionError: It does not.
    """
    program, rest = words[0].rsplit("/", 1)[-1], list(words[1:])
    if program == "ambi":
        _check_ambi(rest, block)
    elif program in ("python", "python3"):
        _check_script(rest, block)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(rest) <= set(targets), f"{block.place}: make {rest}"
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = {e for word in rest for e in re.findall(r"\[(.+)\]", word) for e in e.split(",")}
        assert extras <= set(project["optional-dependencies"]), f"{block.place}: pip {rest}"
    elif program not in _HARMLESS:
        raise AssertionError(f"{block.place}: this test does not know the program {program!r}")


def _check_ambi(words: list[str], block: Block) -> None:
    if words[0] == "train":
        _check_train(words[1:], block)
        return
    command: Any = typer.main.get_command(app)
    name = "ambi"
    while True:
        context = command.make_context(name, words)
        words = [*context._protected_args, *context.args]
        if not hasattr(command, "resolve_command"):
            break
        name, command, words = command.resolve_command(context, words)
    if name == "study":
        _sorted_out(context.params["words"] or [])


def _own_files(document: Path) -> dict[str, str]:
    """Configuration files that a reader makes by copying one: GROUP=NEW by GROUP=OLD."""
    copies = re.findall(r"^cp conf/(\w+)/(\w+).yaml conf/\1/(\w+).yaml", document.read_text(), re.M)
    return {f"{group}={new}": f"{group}={old}" for group, old, new in copies}


def _check_train(words: list[str], block: Block) -> None:
    overrides, flags = _split([word for word in words if word != "…"])
    launchers = {path.stem for path in (ROOT / "conf" / "hydra" / "launcher").glob("*.yaml")}
    for word in overrides:
        group, _, name = word.partition("=")
        assert group != "hydra/launcher" or name in launchers, f"{block.place}: {word}"
    own = _own_files(block.document)
    # A run to go on with exists only where it was started.
    known = [own.get(word, word) for word in overrides if not word.startswith(("resume=", "hydra"))]
    _compose(tuple(known), multirun=flags.multirun)


@cache
def _compose(overrides: tuple[str, ...], *, multirun: bool) -> None:
    """As `check_overrides`; documents repeat themselves."""
    check_overrides(list(overrides), multirun=multirun)


def _check_script(words: list[str], block: Block) -> None:
    if words[0] in ("-m", "-c"):
        assert words[0] == "-c" or importlib.util.find_spec(words[1]), f"{block.place}: {words}"
        return
    script = ROOT / words[0]
    assert script.is_file(), f"{block.place}: there is no {words[0]}"
    tree = ast.parse(script.read_text())
    # Options of argparse are strings; those of Typer may be only the names of arguments.
    known = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    known |= {f"--{n.arg.replace('_', '-')}" for n in ast.walk(tree) if isinstance(n, ast.arg)}
    for word in words[1:]:
        option = word.partition("=")[0]
        assert option[0] != "-" or option in known, f"{block.place}: {script.name} has no {option}"


def _check_python(block: Block) -> None:
    """See that code compiles and that what it imports is there."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block.place}: {node.module}.{alias.name}"


# Links --------------------------------------------------------------------------------------------------


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S))


def anchors(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^ *```.*?^ *```$", "", document.read_text(), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        numbered = (slug if n == 0 else f"{slug}-{n}" for n in range(99))
        found.add(next(name for name in numbered if name not in found))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=_shown)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(document.read_text())):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), f"{document.name} links to {target}, which does not exist"
        assert path.is_relative_to(ROOT), f"{document.name} links to {target}, outside"
        if anchor:
            assert anchor in anchors(path), f"{document.name} links to {target}: no such heading"


def test_the_index_names_every_document() -> None:
    index = INDEX.read_text()
    for document in DOCUMENTS:
        if document not in (README, INDEX):
            assert f"]({document.name})" in index, f"docs/README.md does not name {document.name}"

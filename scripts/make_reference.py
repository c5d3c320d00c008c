"""Writes the tables of docs/environment.md and docs/configuration.md from what they describe.

    python scripts/make_reference.py            # after a change of conf/, the environment or its features
    python scripts/make_reference.py --check    # fails if the tables are stale; tests do this

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; all else is written by hand.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import math
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING as MUST_BE_GIVEN
from omegaconf import OmegaConf

import ambi_rl.conf
from ambi_rl.codec import tables
from ambi_rl.codec.bundle import default_bundle
from ambi_rl.codec.files import write_file
from ambi_rl.codec.strategists.features import GENERAL, Feature, features
from ambi_rl.envs import BlockCodingEnv, BlockCodingVectorEnv
from ambi_rl.rewards import TERMS
from ambi_rl.sweeps.space import STUDY_RULES, StudyConfig
from ambi_rl.training.config import (
    RULES,
    SYSTEM_GROUPS,
    A2CConfig,
    PPOConfig,
    Rule,
    TrainConfig,
)
from ambi_rl.training.feature_config import FEATURE_RULES, FeatureConfig
from ambi_rl.training.run_config import RUN_RULES, SYSTEMS, RunConfig
from ambi_rl.training.superres_config import SUPERRES_RULES, SuperresConfig

ROOT = Path(__file__).resolve().parent.parent
CONF = Path(ambi_rl.conf.__file__).parent
PAGES = (ROOT / "docs" / "environment.md", ROOT / "docs" / "configuration.md")

_TABLE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n".replace("  |", " |") for cells in lines)


def code(text: object) -> str:
    """A value as code; YAML's words for Python's."""
    words = {None: "null", True: "true", False: "false", "": '""'}
    shown = words.get(text, text) if isinstance(text, bool | str | None) else text
    if isinstance(shown, list):
        shown = f"[{', '.join(str(item) for item in shown)}]"
    return f"`{shown}`"


# The environment ---------------------------------------------------------------------------------------


def _bound(value: float) -> str:
    return {math.inf: "∞", -math.inf: "−∞"}.get(value, f"{value:.4g}".replace("-", "−"))


def _feature_row(index: int, feature: Feature) -> list[str]:
    span = f"{_bound(feature.low)}…{_bound(feature.high)}"
    span = "" if feature.unit == "0 or 1" else span
    return [str(index), f"`{feature.name}`", feature.meaning, feature.unit, span]


def feature_table() -> str:
    """The features that every bundle has."""
    rows = [_feature_row(index, feature) for index, feature in enumerate(GENERAL)]
    return table(["index", "name", "meaning", "unit", "range"], rows)


def _direction(name: str) -> str:
    known = {
        tables.FIRST_ANGLE: "from the bottom left",
        tables.HORIZONTAL: "from the left",
        tables.DIAGONAL: "from the top left",
        tables.VERTICAL: "from the top",
        tables.LAST_ANGLE: "from the top right",
    }
    if name.startswith("angular_"):
        return known.get(int(name.removeprefix("angular_")), "between these")
    return {"planar": "a bilinear surface", "dc": "the border's mean"}.get(name, "")


def decision_table() -> str:
    """Decisions of the shipped bundle, with the feature that says what each would cost."""
    strategies = default_bundle().strategies
    named = features(strategies)
    rows = [["0", "split", "four nodes of half the side follow", "", ""]]
    for index, name in enumerate(strategies):
        at = len(GENERAL) + index
        rows.append([str(1 + index), f"`{name}`", _direction(name), str(at), f"`{named[at].name}`"])
    return table(["decision", "strategy", "prediction", "observation index", "its feature"], rows)


def offset_table() -> str:
    """Quantization offsets of the shipped bundle."""
    bundle = default_bundle()
    first = 1 + len(bundle.strategies)
    rows = [
        [
            str(index),
            f"{offset:+d}".replace("-", "−"),
            f"{2 ** (offset / 6):.3f}",
            str(first + index),
        ]
        for index, offset in enumerate(bundle.offsets)
    ]
    return table(["offset", "sixths of an octave", "step × ", "place in the mask"], rows)


def _arguments_of(docstring: str) -> dict[str, str]:
    """Meanings of arguments, from the Args section of a docstring."""
    section = inspect.cleandoc(docstring).partition("\nArgs:\n")[2]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        entry = re.match(r"    (\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        else:
            found[name] += f" {line.strip()}"
    return found


def argument_table(kind: type) -> str:
    """Arguments of an environment."""
    meanings = _arguments_of(kind.__doc__ or "")
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    assert [p.name for p in parameters if p.name not in meanings] == []
    rows = [
        [f"`{p.name}`", "`" + repr(p.default).replace("'", '"') + "`", meanings[p.name]]
        for p in parameters
    ]
    return table(["argument", "default", "meaning"], rows)


def term_table() -> str:
    """The reward's terms."""
    when = {"step": "after each decision", "episode": "with the last one"}
    rows = [[f"`{t.name}`", t.summary, t.unit, when[t.when]] for t in TERMS.values()]
    return table(["term", "what it charges", "unit", "known"], rows)


# The configuration -------------------------------------------------------------------------------------


@dataclass
class File:
    """A YAML file of conf/.

    Attributes:
        name: Without suffix.
        header: Paragraphs of the comment at the top; those of commands end with a newline.
        comments: By dotted key, what stands above it.
        values: By dotted key, as written.
        choices: By group, what its defaults list takes of it.
        bases: Files of its own group that its defaults list begins with.
    """

    name: str
    header: list[str] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    bases: list[str] = field(default_factory=list)


def _flat(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and key not in ("space", "arguments", "runtime_env"):
            found |= _flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def _paragraphs(lines: list[str]) -> list[str]:
    """Comment lines as paragraphs; indented ones as commands, which keep their lines."""
    found: list[str] = []
    for line in [*lines, ""]:
        text = line.rstrip()
        is_command = text.startswith("   ")
        if not text:
            found.append("")
        elif not found or not found[-1] or is_command or found[-1].endswith("\n"):
            found.append(text[3:] + "\n" if is_command else text.strip())
        else:
            found[-1] += f" {text.strip()}"
    return [text for text in found if text]


def read(path: Path) -> File:
    """Read a file's header, comments and values."""
    file = File(path.stem)
    block: list[str] = []
    above: list[tuple[int, str]] = []
    for line in [*path.read_text().splitlines(), ""]:
        text = line.strip()
        if text.startswith("#"):
            if not text.startswith("# @package"):
                block.append(text[1:])
            continue
        key = re.match(r"([\w.]+):", text)
        if not text and block and not file.header:
            file.header = _paragraphs(block)
        elif key:
            depth = len(line) - len(line.lstrip())
            above = [(d, name) for d, name in above if d < depth] + [(depth, key[1])]
            file.comments[".".join(name for _, name in above)] = " ".join(map(str.strip, block))
        block = []
    values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(values, dict)
    plain = {key: value for key, value in values.items() if key not in ("defaults", "hydra")}
    file.values = _flat(plain)
    defaults = values.get("defaults", [])
    file.choices = _choices(defaults)
    file.bases = [
        entry
        for entry in defaults
        # Not those that are schemas, and not `_self_`.
        if isinstance(entry, str) and (path.parent / f"{entry}.yaml").is_file()
    ]
    return file


def _choices(defaults: list[Any]) -> dict[str, str]:
    """Groups of a defaults list, with what is taken of them; `override` and the leading slash left out."""
    entries = [entry for entry in defaults if isinstance(entry, dict)]
    return {
        str(group).removeprefix("override ").removeprefix("/"): str(choice)
        for entry in entries
        for group, choice in entry.items()
    }


_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "anything"}


def _type_name(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        return f"{_type_name(inner[0])} or null"
    if origin is list:
        return f"list of {_type_name(arguments[0])}s"
    if origin is dict or is_dataclass(hint):
        return "mapping"
    if origin is Literal:
        return "text"
    return _WORDS.get(hint, str(hint))


@dataclass
class Key:
    """A key of the schema."""

    type: str
    default: Any
    """What holds where no file says anything; `NO_DEFAULT` if a file must."""


def schema_of(kind: type, prefix: str = "") -> dict[str, Key]:
    """Keys of a structured configuration, by dotted name."""
    found: dict[str, Key] = {}
    hints = get_type_hints(kind)
    for item in fields(kind):
        name, hint = f"{prefix}{item.name}", hints[item.name]
        if is_dataclass(hint):
            found |= schema_of(hint, f"{name}.")  # type: ignore[arg-type]
            continue
        default = item.default
        if item.default_factory is not NO_DEFAULT:
            default = item.default_factory()
        found[name] = Key(_type_name(hint), NO_DEFAULT if default == MUST_BE_GIVEN else default)
    return found


def _block_schema() -> dict[str, Key]:
    parts = schema_of(A2CConfig, "agent.") | schema_of(PPOConfig, "agent.")
    return {k: v for k, v in schema_of(TrainConfig).items() if not k.startswith("agent")} | parts


SCHEMAS: dict[str, Callable[[], dict[str, Key]]] = {
    "block": _block_schema,
    "features": partial(schema_of, FeatureConfig),
    "superres": partial(schema_of, SuperresConfig),
}
"""By system, every key of a run of it."""
SYSTEM_RULES = {"block": RULES, "features": FEATURE_RULES, "superres": SUPERRES_RULES}


def _defaults(key: str, known: Key, files: list[File]) -> str:
    """What the first file says, and what others say instead."""
    first = files[0].values.get(key, known.default)
    shown = "" if first is NO_DEFAULT else code(first)
    others: dict[str, list[str]] = {}
    for file in files[1:]:
        value = file.values.get(key, known.default)
        is_other = value != first or type(value) is not type(first)
        if is_other and (key in file.values or value is NO_DEFAULT):
            shown_value = "–" if value is NO_DEFAULT else code(value)
            others.setdefault(shown_value, []).append(f"`{file.name}`")
    ends = [f"{', '.join(names)}: {value}" for value, names in others.items()]
    return "; ".join([shown, *ends] if shown else ends)


def _meaning(key: str, files: list[File]) -> str:
    """The comment of the first file that has the key, and others' where they differ."""
    comments = [(file.name, file.comments[key]) for file in files if file.comments.get(key)]
    if not comments:
        return ""
    said = comments[0][1]
    others = {text: name for name, text in reversed(comments[1:]) if text != said}
    others = {text: name for text, name in others.items() if not text.startswith("Not with")}
    return " ".join([said, *(f"(`{name}`: {text})" for text, name in reversed(others.items()))])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def key_table(
    prefix: str, files: list[File], schema: dict[str, Key], rules: Mapping[str, Rule]
) -> str:
    """Keys of a part of the configuration.

    Args:
        prefix: Of the part's keys in `schema`, with its dot, or nothing.
        files: Those that may stand for the part, the default first.
        schema: By dotted key.
        rules: Likewise.

    Raises:
        SystemExit: A file has a key that the schema does not have, or a key no comment.
    """
    own = {k.removeprefix(prefix): v for k, v in schema.items() if k.startswith(prefix)}
    unknown = {key for file in files for key in file.values} - set(own)
    if unknown:
        raise SystemExit(f"make_reference: {prefix}{sorted(unknown)[0]} is not in the schema")
    rows = []
    for key, known in own.items():
        rule = rules.get(f"{prefix}{key}")
        meaning = _meaning(key, files)
        if not meaning:
            raise SystemExit(f"make_reference: no file of conf/ says what {prefix}{key} means")
        rows.append(
            [
                f"`{prefix}{key}`",
                known.type,
                "" if rule is None else rule.text,
                _defaults(key, known, files),
                meaning,
            ]
        )
    heads = ["key", "type", "values", "default", "meaning"]
    return table(heads, [[_cell(cell) for cell in row] for row in rows])


def _headers(files: list[File], prefix: str, default: str) -> str:
    """What each choice is, paragraph by paragraph; what several say alike is said once."""
    said: set[str] = set()
    parts: list[str] = []
    for file in files:
        mark = " (default)" if file.name == default else ""
        base = "".join(f" All else is as in `{base}`." for base in file.bases)
        parts.append(f"* **`{prefix}={file.name}`**{mark}: {file.header[0]}{base}")
        rest = [text for text in file.header[1:] if text not in said]
        said.update(rest)
        for is_code, group in groupby(rest, key=lambda text: text.endswith("\n")):
            if is_code:
                parts.append(_fenced("".join(group), f"conf/{prefix}/{file.name}.yaml"))
            else:
                parts += [f"  {text}".replace("**", "\\*\\*") for text in group]
    return "\n\n".join(parts) + "\n"


def _fenced(text: str, source: str) -> str:
    """Lines of a comment as a block of code below a list's item."""
    is_command = text.startswith(("ambi ", "python "))
    fence = "```bash" if is_command else "```text"
    lines = [fence, *text.rstrip().splitlines(), "```"]
    if is_command:
        lines.insert(0, f"<!-- not run: quoted from {source} -->")
    return "\n".join(f"  {line}" for line in lines)


def _group(name: str) -> list[File]:
    """Files of a group, the default first."""
    default = _default_choice(name)
    paths = sorted((CONF / name).glob("*.yaml"), key=lambda path: (path.stem != default, path.stem))
    return [read(path) for path in paths]


def _default_choice(group: str) -> str:
    """What is taken of a group where nothing is said: by all runs, or by the first system that has it."""
    choices: dict[str, str] = {}
    for system in reversed(SYSTEMS):
        choices |= read(CONF / "system" / f"{system}.yaml").choices
    return (choices | read(CONF / "config.yaml").choices).get(group, "")


def run_table() -> str:
    """Keys that all systems share."""
    own = {key: known for key, known in schema_of(RunConfig).items() if key != "system"}
    return key_table("", [read(CONF / "config.yaml")], own, RUN_RULES)


def system_choices() -> str:
    """What can be trained."""
    return _headers(_group("system"), "system", _default_choice("system"))


def system_table(system: str) -> str:
    """Keys that one system has in no group, and those of groups that it has other defaults for."""
    shared = schema_of(RunConfig)
    groups = tuple(f"{group}." for group in SYSTEM_GROUPS[system])
    known = SCHEMAS[system]()
    file = read(CONF / "system" / f"{system}.yaml")
    own = {
        key: kind for key, kind in known.items() if not key.startswith(groups) or key in file.values
    }
    for key in shared:
        own.pop(key)
        file.values.pop(key, None)
    return key_table("", [file], own, SYSTEM_RULES[system])


def group_table(group: str) -> str:
    """A group of files: its choices and its keys, which are those of the first system that has it."""
    system = next(name for name, groups in SYSTEM_GROUPS.items() if group in groups)
    files = _group(group)
    choices = _headers(files, group, _default_choice(group))
    return f"{choices}\n{key_table(f'{group}.', files, SCHEMAS[system](), SYSTEM_RULES[system])}"


def _system_of(experiment: File) -> str:
    """The system that an experiment chooses, or one that it goes on from."""
    bases = [read(CONF / "experiment" / f"{base}.yaml") for base in experiment.bases]
    chosen = experiment.choices.get("system")
    return chosen or (_system_of(bases[0]) if bases else _default_choice("system"))


def experiment_table(system: str) -> str:
    """What each experiment of a system changes."""
    files = [file for file in _group("experiment") if _system_of(file) == system]
    default = _default_choice("experiment")
    choices = _headers(files, "experiment", default)
    files = [file for file in files if file.values]
    keys = list(dict.fromkeys(key for file in files for key in file.values))
    unknown = set(keys) - set(SCHEMAS[system]())
    if unknown:
        raise SystemExit(f"make_reference: {sorted(unknown)[0]} is no key of system={system}")
    rows = [
        [f"`{key}`", *(code(file.values[key]) if key in file.values else "" for file in files)]
        for key in keys
    ]
    return f"{choices}\n{table(['key', *(f'`{file.name}`' for file in files)], rows)}"


def launcher_table() -> str:
    """Launchers of sweeps; types are those of the launchers' own schemas."""
    files = _group("hydra/launcher")
    rows = [
        [f"`{file.name}`", f"`hydra.launcher.{key}`", code(value), _cell(file.comments[key])]
        for file in files
        for key, value in file.values.items()
        if key != "_target_"
    ]
    choices = _headers(files, "hydra/launcher", "")
    return f"{choices}\n{table(['launcher', 'key', 'default', 'meaning'], rows)}"


def _flow(spec: Mapping[str, Any]) -> str:
    """A mapping as YAML writes it on one line."""
    return f"`{{{', '.join(f'{key}: {code(value)[1:-1]}' for key, value in spec.items())}}}`"


def study_table() -> str:
    """Keys of a study file, and what the default one varies."""
    file = read(CONF / "study" / "default.yaml")
    keys = key_table("", [file], schema_of(StudyConfig), STUDY_RULES)
    space = file.values["space"]
    # The keys of the space hold dots themselves.
    rows = [[f"`{key}`", _flow(spec), file.comments[f"space.{key}"]] for key, spec in space.items()]
    keys = keys.replace(_cell(code(space)), "see below")
    return f"{keys}\n{table(['varied', 'values', 'meaning'], rows)}"


TABLES: dict[str, Callable[[], str]] = {
    "features": feature_table,
    "decisions": decision_table,
    "offsets": offset_table,
    "arguments": lambda: argument_table(BlockCodingEnv),
    "vector arguments": lambda: argument_table(BlockCodingVectorEnv),
    "terms": term_table,
    "run": run_table,
    "system": system_choices,
    "experiment": lambda: experiment_table("block"),
    "experiment of features": lambda: experiment_table("features"),
    "experiment of superres": lambda: experiment_table("superres"),
    **{f"system={system}": partial(system_table, system) for system in SYSTEMS},
    "hydra/launcher": launcher_table,
    "study": study_table,
    **{
        group: partial(group_table, group)
        for group in dict.fromkeys(itertools.chain.from_iterable(SYSTEM_GROUPS.values()))
    },
}
"""By the name in the pages."""


def folders() -> list[str]:
    """Every folder of conf/ that holds YAML files; each has a table of its name."""
    found = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    return sorted(found - {"."})


def filled_in(page: str) -> str:
    """A page with its tables made anew.

    Raises:
        SystemExit: It asks for a table that there is not.
    """

    def fill(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise SystemExit(f"make_reference: there is no table {match[2]!r}")
        return f"{match[1]}{TABLES[match[2]]()}{match[3]}"

    return _TABLE.sub(fill, page)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a table is stale"
    )
    check = parser.parse_args().check
    texts = {path: path.read_text() for path in PAGES}
    shown = {match[2] for text in texts.values() for match in _TABLE.finditer(text)}
    for name in [*TABLES, *folders()]:
        if name not in shown:
            raise SystemExit(f"make_reference: no page shows the table {name!r}")
    stale = {path: new for path, old in texts.items() if (new := filled_in(old)) != old}
    for path, text in stale.items():
        if check:
            print(f"{path.relative_to(ROOT)} is stale: run python scripts/make_reference.py")
        else:
            write_file(path, text.encode())
            print(f"{path.relative_to(ROOT)} written")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()

"""Pages of the reference that are made from the code each time the site is built."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from embedcube.campaign.options import in_words
from embedcube.campaign.plugins import campaign_schema
from embedcube.campaign.site import Site

Json = dict[str, Any]

CAMPAIGN_HEAD = """# Campaign file

One YAML file says what is asked. `embedcube schema` prints the same as JSON Schema, for your editor.
All but `how` and the paths is *what*: it makes the campaign's digest and decides the bytes of the cube.

A time is an ISO date or time (`2023-06-01`, `2023-06-01T12:00:00`), in UTC if it names no zone.
A duration is a number and a unit: `1 hour`, `14 days`, `2 weeks`, `1 month`, `1 year`.
"""

SITE_HEAD = """# Site file

One YAML file describes a batch system. `how.site` of a campaign names it, or `--site` of the command line.
`configs/sites/` holds some; [Slurm](../slurm.md) says how they are used.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those that are written by hand."""
    pages = {
        "reference/campaign.md": CAMPAIGN_HEAD + schema_page(campaign_schema()),
        "reference/site.md": SITE_HEAD + schema_page(Site.model_json_schema()),
        "reference/command-line.md": command_line_page(),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def schema_page(schema: Json) -> str:
    """A table of keys for the outermost block, then one for each block within it, in the order they are first named."""
    blocks: Json = schema.get("$defs", {})
    order = [schema["title"]]
    blocks |= {schema["title"]: schema}
    for title in order:
        # for an archive also the blocks of options, which depend on its source
        parts = [blocks[title]["properties"], blocks[title].get("allOf", [])]
        order += dict.fromkeys(name for name in _blocks_named(parts) if name not in order)
    return "\n".join(
        f"\n## {blocks[name].get('title', name)} {{ #{name.lower()} }}\n\n{_table(name, blocks[name])}"
        for name in order
    )


def command_line_page() -> str:
    """What Typer's own generator says of the command `embedcube`."""
    command = [sys.executable, "-m", "typer", "embedcube.cli.verbs", "utils", "docs", "--name", "embedcube"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text = re.sub(r"\A# .*\n", "# Command line\n", text)
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)
    text = re.sub(r"^\* `--help`.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*Options\*\*:\n\n(?=\n|\Z|#)", "", text)
    return re.sub(r"  Example: (.*)", r"\n\n```console\n$ \1\n```", text)


def _blocks_named(part: Any) -> Iterator[str]:
    """Names of the blocks that a part of a JSON Schema refers to."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"].rpartition("/")[2]
        for value in part.values():
            yield from _blocks_named(value)
    elif isinstance(part, list):
        for value in part:
            yield from _blocks_named(value)


def _table(title: str, block: Json) -> str:
    # options of plugins bring their descriptions
    described = all("description" in value for value in block["properties"].values())
    meanings = {} if described else _field_docstrings(title)
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, value in block["properties"].items():
        required = key in block.get("required", ())
        meaning = meanings.get(key) or _one_line(value.get("description", ""))
        default = "required" if required else _default(value)
        rows.append(f"| `{key}` | {_value(value)} | {default} | {meaning} |")
    description = str(block.get("description", "")).partition("\n")[0]
    return description + "\n\n" + "\n".join(rows) + "\n"


def _field_docstrings(title: str) -> dict[str, str]:
    """The docstring under each field of a block, on one line."""
    for module in ("schema", "periods", "how", "site"):
        members = griffe.load(f"embedcube.campaign.{module}").members
        if title in members and members[title].is_class and not members[title].is_alias:
            fields = members[title].members.items()
            return {name: _one_line(field.docstring.value) for name, field in fields if field.docstring}
    raise LookupError(f"no class {title} among the blocks of a campaign")


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _default(value: Json) -> str:
    default = value.get("default")
    if isinstance(default, dict):
        return "see there"
    return "" if default in (None, [], {}) else f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _value(value: Json) -> str:
    """A JSON Schema type in words, with links to blocks."""
    return in_words(value, lambda title: f"[{title}](#{title.lower()})", "`{}`")

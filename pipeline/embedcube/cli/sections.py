"""The list of verbs in `embedcube --help`, by what they are for."""

from typing import Any

import typer.core

SECTIONS = {
    "Make a cube": ("demo", "import-terratorch", "run", "index", "fit", "plan", "embed", "consolidate", "verify"),
    "Make it again": ("versions", "merge"),
    "On a cluster": ("submit", "status", "cancel", "doctor"),
    "Use a cube": ("info", "explain", "sample", "parcels", "find", "index-vectors", "change", "decode"),
    "Where it comes from": ("lineage", "reproduce", "diff"),
    "See and share": ("preview", "view", "report", "serve", "pull", "export", "check", "import", "codecs"),
    "Look up": ("models", "sources", "weights", "schema"),
}
"""Verbs by section, in the order in which they are listed."""


class Sections(typer.core.TyperGroup):
    """A group of commands that lists them by section; one that is in no section comes last."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list. The types are those of click, which newer versions of typer bring themselves."""
        listed = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in listed)
        for title, names in (*SECTIONS.items(), ("More", others)):
            commands = [(name, command) for name in names if (command := self.get_command(ctx, name))]
            if not commands:
                continue
            width = formatter.width - 4 - max(len(name) for name, _ in commands)
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(width)) for name, command in commands])

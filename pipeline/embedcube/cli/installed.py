"""What is installed: models and sources, each as an answer in JSON and as lines for people."""

import textwrap
from dataclasses import asdict
from typing import Any

from embedcube.campaign.options import Option, described
from embedcube.campaign.plugins import names, options_of, plugin

_WIDTH = 110


def models_installed() -> tuple[dict[str, Any], list[str]]:
    """The models of all backbones."""
    cards = [(name, asdict(card)) for name in names("backbones") for card in plugin("backbones", name).cards()]
    answer = {"models": [{"backbone": name} | card for name, card in cards]}
    lines: list[str] = []
    for name, card in cards:
        lines.append(f"{name} {card.pop('model')}".rstrip())
        hub = card.pop("hub")
        lines += [f"    {key:<15}{text}" for key, text in (card | ({"weights": "/".join(hub)} if hub else {})).items()]
    return answer, lines


def sources_installed() -> tuple[dict[str, Any], list[str]]:
    """All sources and their options."""
    answer: list[dict[str, Any]] = []
    lines: list[str] = []
    for name, kind in options_of("sources").items():
        about = (plugin("sources", name).__doc__ or "").partition("\n")[0]
        options = None if kind is None else described(kind)
        answer.append(
            {"source": name, "about": about, "options": None if options is None else [asdict(o) for o in options]}
        )
        lines += [name, *_wrapped(about, "    ")]
        if options is None:
            lines.append("    its options are not declared")
        for option in options or ():
            lines += [f"    {option.name}: {_shape(option)}", *_wrapped(option.meaning, "        ")]
    return {"sources": answer}, lines


def _shape(option: Option) -> str:
    if option.required:
        return f"{option.value} (required)"
    if option.default in (None, {}, [], ""):
        return option.value
    default = str(option.default).lower() if isinstance(option.default, bool) else option.default
    return f"{option.value} (default {default})"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)

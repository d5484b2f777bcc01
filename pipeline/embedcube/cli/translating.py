"""`import-terratorch`: a campaign from a configuration of TerraTorch."""

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from embedcube.campaign.run_folder import write_atomically
from embedcube.cli.options import AsJson
from embedcube.errors import RequestError
from embedcube.printable import printable

verbs = typer.Typer()


@verbs.command("import-terratorch")
def import_terratorch(
    config: Annotated[Path, typer.Argument(help="A configuration (YAML) of TerraTorch's EmbeddingGenerationTask.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The campaign file; by default it is printed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a campaign of a TerraTorch configuration.

    The configuration is one of its EmbeddingGenerationTask; TerraTorch need not be installed. What cannot be
    translated, and what to look at, is listed at the top of the campaign.

    Example: embedcube import-terratorch terramind_embeddings.yaml -o campaign.yaml
    """
    from embedcube.uses.from_terratorch import translate

    if out is not None and out.exists():
        raise RequestError(f"{out} exists already; remove it or name another file")
    made = translate(config)
    origin = printable(config.name)
    lines = [f"# made from {origin} of TerraTorch; look at these:", *(f"#   {one}" for one in made.remarks)]
    text = "\n".join([*lines, yaml.safe_dump(made.campaign, sort_keys=False, width=120)])
    if out is not None:
        write_atomically(out, text.encode())
    if as_json:
        print(json.dumps({"campaign": made.campaign, "remarks": made.remarks, "out": str(out) if out else None}))
    elif out is None:
        print(text, end="")
    else:
        print(f"{out}: {len(made.remarks)} remarks at its top; look at them, then `embedcube run {out}`")

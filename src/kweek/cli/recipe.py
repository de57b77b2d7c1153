"""`kweek recipe`: the recipes there are, and every key of one with value, default, meaning and reason."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

verbs = typer.Typer(no_args_is_help=True, help="Show recipes and every key of them.")


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.add_typer(verbs, name="recipe")


@verbs.command("list")
def list_recipes(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the built-in recipes.

    Example: kweek recipe list
    """
    from kweek.recipe.builtin import builtin_names, find_recipe

    rows = [(name, str(find_recipe(name).data.get("description", ""))) for name in builtin_names()]
    if as_json:
        print(json.dumps([{"name": name, "description": text} for name, text in rows], indent=1))
        return
    for name, text in rows:
        print(f"{name:12} {text}")


@verbs.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="A built-in name or a YAML file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every key of a recipe: value, default, meaning, and why the default is what it is.

    Examples: kweek recipe show laptop · kweek recipe show mine.yaml --json
    """
    from kweek.recipe.builtin import load_recipe
    from kweek.recipe.describe import describe

    described = describe(load_recipe(name))
    if as_json:
        print(json.dumps(described, indent=1))
        return
    _draw(described)


def _draw(described: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(described['name'])}[/bold]  {escape(described['description'])}")
    for key in described["keys"]:
        console.print(
            f"  [cyan]{key['key']}[/cyan] = {escape(json.dumps(key['value']))}   {escape(key['doc'])}"
        )
    for stage in described["stages"]:
        console.print(f"\n[bold]stages.{stage['name']}[/bold]  kind {stage['kind']}")
        for role in stage["inputs"]:
            source = role["stage"] or "(none)"
            console.print(f"  inputs.[cyan]{escape(role['role'])}[/cyan] = {source}   {escape(role['doc'])}")
        for key in stage["keys"]:
            changed = key["value"] != key["default"] or key["required"]
            note = "required" if key["required"] else f"default {json.dumps(key['default'])}"
            mark = f"   [yellow]({escape(note)})[/yellow]" if changed else ""
            console.print(f"  [cyan]{key['key']}[/cyan] = {escape(json.dumps(key['value']))}{mark}")
            console.print(f"      {escape(key['doc'])}. [dim]Why: {escape(key['reason'])}.[/dim]")

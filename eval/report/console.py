"""What commands share: how they begin, how they end where the input was wrong, and their tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

console, errors = Console(), Console(stderr=True)
WRONG_INPUT = (ValueError, OSError, ImportError)
WRAPPED = ("verdict", "needs", "licence", "available here")  # columns of words


class Command(TyperCommand):
    """A command whose wrong use ends with exit code 1, as 2 says that some clips failed."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with usage_is_one():
            return super().make_context(*arguments, **options)


class Commands(TyperGroup):
    """A group whose first word may be left out: `CLIPS...` alone means `run CLIPS...`."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with usage_is_one():
            return super().make_context(*arguments, **options)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["run", *args])


@contextmanager
def usage_is_one() -> Iterator[None]:
    """Give errors of usage the exit code 1."""
    try:
        yield
    except Exception as error:
        usage: Any = error
        if getattr(usage, "exit_code", None) == 2:  # of typer's own click or of an installed one
            usage.exit_code = 1
        raise


@contextmanager
def plain_errors(code: int = 1, kinds: tuple[type[Exception], ...] = WRONG_INPUT) -> Iterator[None]:
    """Wrong input ends with one red line and an exit code, not with a traceback."""
    try:
        yield
    except kinds as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(code) from None


def show(header: list[str], rows: list[list[str]], columns: list[str] | None = None) -> None:
    """Print a table; what is empty for all is left out, as are columns that were not asked for."""
    kept = [i for i, name in enumerate(header) if name in (columns or header) and any(row[i] for row in rows)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index in kept:
        table.add_column(header[index], no_wrap=header[index] not in WRAPPED, overflow="fold")
    for row in rows:
        table.add_row(*(row[index] for index in kept))
    console.print(table)

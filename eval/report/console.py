"""Console output of the commands: tables, error messages and exit codes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleDimensions
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

FULL_WIDTH = 100_000  # columns of a file or a pipe: no table is cut


class FullWidthConsole(Console):
    """A console that wraps and cuts lines on a terminal only, unless the variable COLUMNS gives a width."""

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines of the terminal, or the width of a file."""
        size = super().size
        return size if self.is_terminal or self._width is not None else ConsoleDimensions(FULL_WIDTH, size.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


console, errors = FullWidthConsole(), FullWidthConsole(stderr=True)
INPUT_ERRORS = (ValueError, OSError, ImportError)
WRAPPED = ("pair", "verdict", "set of clips", "needs", "licence", "available here")  # columns of prose
LONGEST_WORD = 14  # characters that a column of prose has at least


class Command(TyperCommand):
    """A command whose usage errors have exit code 1, because 2 means that some clips failed."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with usage_errors_exit_with_1():
            return super().make_context(*arguments, **options)


class Commands(TyperGroup):
    """A group of commands with `run` as the default: `CLIPS...` means `run CLIPS...`."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with usage_errors_exit_with_1():
            return super().make_context(*arguments, **options)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        has_command = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if has_command else ["run", *args])


@contextmanager
def usage_errors_exit_with_1() -> Iterator[None]:
    """Change the exit code of usage errors from 2 to 1."""
    try:
        yield
    except Exception as error:
        usage_error: Any = error
        if getattr(usage_error, "exit_code", None) == 2:  # of the click that typer bundles, or of an installed one
            usage_error.exit_code = 1
        raise


@contextmanager
def plain_errors(code: int = 1, kinds: tuple[type[Exception], ...] = INPUT_ERRORS) -> Iterator[None]:
    """Report errors of these kinds as one red line with an exit code, instead of a traceback."""
    try:
        yield
    except kinds as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(code) from None


@contextmanager
def resumable() -> Iterator[None]:
    """Say after Ctrl-C that the same command continues, and exit with code 130."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print("interrupted; run the same command again to continue", highlight=False)
        raise typer.Exit(130) from None


def show(header: list[str], rows: list[list[str]], columns: list[str] | None = None) -> None:
    """Print a table.

    Args:
        header: names of the columns.
        rows: cells as text.
        columns: to print; None for all. A column that is empty in every row is omitted.
    """
    shown = [i for i, name in enumerate(header) if name in (columns or header) and any(row[i] for row in rows)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index in shown:
        wrapped = header[index] in WRAPPED
        table.add_column(
            header[index], no_wrap=not wrapped, overflow="fold", min_width=LONGEST_WORD if wrapped else None
        )
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    console.print(table)

"""`python -m vidguide.eval CLIPS...`: see :mod:`vidguide.eval.cli`."""

import typer

from vidguide.eval.cli import Evaluate, evaluate

app = typer.Typer(add_completion=False)
app.command(cls=Evaluate)(evaluate)

if __name__ == "__main__":
    app(prog_name="python -m vidguide.eval")

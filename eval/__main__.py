"""Entry point of `python -m vidguide.eval run CLIPS...`; see :mod:`vidguide.eval.cli`."""

from vidguide.eval.cli import app

if __name__ == "__main__":
    app(prog_name="python -m vidguide.eval")

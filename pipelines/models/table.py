"""Table of the declared models, for the command line and docs/models.md."""

from collections.abc import Mapping

from vidguide.eval.report.markdown_table import markdown_table
from vidguide.pipelines.models.spec import Model

IMAGE_USE = {"no": "-", "may": "optional", "must": "needed", None: "-"}


def rows(models: Mapping[str, Model]) -> list[dict[str, str]]:
    """Return one row of text cells per model."""
    return [row(name, model) for name, model in models.items()]


def row(name: str, model: Model) -> dict[str, str]:
    """Return the text cells of one model by column name."""
    size = f"{model.width}x{model.height}" if model.width and model.height else "of the image"
    return {
        "model": name,
        "what": model.about,
        "steps": str(model.steps),
        "clip": f"{size}, {model.frames} frames, {model.fps:g} fps",
        "first image": IMAGE_USE[model.image],
        "NAG": ", ".join(f"{name} {value:g}" for name, value in model.nag.items()) or "default",
        "run on real weights": "yes" if model.ran else "not yet",
    }


def markdown(models: Mapping[str, Model]) -> str:
    """Return the table in Markdown, each name linked to its weights on the Hugging Face Hub."""
    table = rows(models)
    links = [f"[`{name}`](https://huggingface.co/{model.source})" for name, model in models.items()]
    linked = [list({**cells, "model": link}.values()) for cells, link in zip(table, links, strict=True)]
    return markdown_table(list(table[0]), linked) + "\n"

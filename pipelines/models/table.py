"""The table of models, for the command line and the README."""

from collections.abc import Mapping

from vidguide.pipelines.models.spec import Model

IMAGE = {"no": "-", "may": "optional", "must": "needed", None: "-"}


def rows(models: Mapping[str, Model]) -> list[dict[str, str]]:
    """A row per model, as plain text."""
    return [row(name, model) for name, model in models.items()]


def row(name: str, model: Model) -> dict[str, str]:
    """One model: its name, what it is, how it is run, and whether it has been run here on its real weights."""
    size = f"{model.width}x{model.height}" if model.width and model.height else "of the image"
    return {
        "model": name,
        "what": model.about,
        "steps": str(model.steps),
        "clip": f"{size}, {model.frames} frames, {model.fps:g} fps",
        "first image": IMAGE[model.image],
        "NAG": ", ".join(f"{name} {value:g}" for name, value in model.nag.items()) or "default",
        "run on real weights": "yes" if model.ran else "not yet",
    }


def markdown(models: Mapping[str, Model]) -> str:
    """The rows as a table in Markdown, the names linked to where the weights are."""
    table = rows(models)
    lines = ["| " + " | ".join(table[0]) + " |", "|" + "---|" * len(table[0])]
    for cells, model in zip(table, models.values(), strict=True):
        linked = {**cells, "model": f"[`{cells['model']}`](https://huggingface.co/{model.source})"}
        lines.append("| " + " | ".join(linked.values()) + " |")
    return "\n".join(lines) + "\n"

"""The options of the command line for the fields of a `Setup`, shared by the commands that load a model."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from vidguide.pipelines.request.setup import CACHES, COMPILES, OFFLOADS, QUANTIZATIONS, STORAGES, Setup

# Option of each field. Those that differ in name take several values.
OPTIONS: dict[str, Any] = {
    "quantization": Annotated[str | None, typer.Option(help=f"Quantize the weights: {', '.join(QUANTIZATIONS)}.")],
    "quantized": Annotated[
        list[str] | None, typer.Option(help="Component to quantize; repeat. Default: the transformers.")
    ],
    "gguf": Annotated[
        str | None, typer.Option(help="GGUF file of the transformer: a path, or owner/name/FILE of Hugging Face.")
    ],
    "loras": Annotated[
        list[str] | None,
        typer.Option("--lora", help="LoRA, FILE_OR_REPO:STRENGTH, such as style.safetensors:0.8; repeat."),
    ],
    "layerwise_casting": Annotated[
        str | None, typer.Option(help=f"Dtype in which the transformers store weights: {', '.join(STORAGES)}.")
    ],
    "offload": Annotated[
        str | None, typer.Option(help=f"Offloading to the CPU: {', '.join(OFFLOADS)} (groups of blocks or leaves).")
    ],
    "blocks_per_group": Annotated[int | None, typer.Option(help="Blocks in a group, for --offload blocks.")],
    "stream": Annotated[
        bool | None, typer.Option("--stream", help="Copy the next group while one runs, on a CUDA device.")
    ],
    "compile": Annotated[str | None, typer.Option(help=f"Compile with torch: {' or '.join(COMPILES)}.")],
    "compile_backend": Annotated[str | None, typer.Option(help="Backend of torch.compile. Default: inductor.")],
    "attention_backend": Annotated[
        str | None, typer.Option(help="Attention kernel by its name in diffusers, such as flash or sage.")
    ],
    "cache": Annotated[
        str | None, typer.Option(help=f"Cache: {', '.join(CACHES)}, such as FirstBlockCache:threshold=0.1.")
    ],
    "scheduler": Annotated[str | None, typer.Option(help="Class of the scheduler, such as UniPCMultistepScheduler.")],
    "shift": Annotated[float | None, typer.Option(help="Shift of the noise levels.")],
    "vae_tiling": Annotated[bool | None, typer.Option("--vae-tiling/--no-vae-tiling", help="Decode in tiles.")],
    "vae_slicing": Annotated[
        bool | None, typer.Option("--vae-slicing/--no-vae-slicing", help="Decode the clips of a batch one by one.")
    ],
}


def setup_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `OPTIONS`, in place of its parameter `options`, which becomes their values.

    Options that are not given are left out.
    """
    given = inspect.signature(command, eval_str=True)
    parameters = [each for each in given.parameters.values() if each.name != "options"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    further = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in OPTIONS.items()]
    parameters = [each.replace(kind=keyword) for each in parameters]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = {name: values.pop(name) for name in OPTIONS}
        command(**values, options={name: value for name, value in options.items() if value not in (None, [])})

    vars(run)["__signature__"] = given.replace(parameters=[*parameters, *further])
    del run.__wrapped__
    return run


def setup_from(options: dict[str, Any], base: Setup | None = None) -> Setup:
    """Return a setup from the options of the command line, which replace those of `base`.

    Raises:
        ValueError, TypeError: naming the option.
    """
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    before = {name: getattr(base, name) for name in OPTIONS} if base else {}
    return Setup(**{**before, **values})

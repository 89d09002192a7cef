"""`Setup`: how a model is set up to run. Its names are those of the command line's options and of a sweep's file."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from vidguide.eval.files import suggestion
from vidguide.pipelines.models.spec import REJECT_UNKNOWN, Lora

QUANTIZATIONS = (
    *("torchao-int8", "torchao-fp8", "quanto-int8", "quanto-fp8"),
    *("bitsandbytes-int8", "bitsandbytes-nf4"),
)
OFFLOADS = ("auto", "none", "model", "sequential", "blocks", "leaves")
GROUPS = {"blocks": "block_level", "leaves": "leaf_level"}  # group offload: its type in diffusers
COMPILES = ("blocks", "whole")
STORAGES = ("float8_e4m3fn", "float8_e5m2")
CACHES = ("FirstBlockCache", "TaylorSeer", "MagCache", "PyramidAttentionBroadcast", "FasterCache")
TRANSFORMERS = ("transformer", "transformer_2")
LORA_FILE = "pytorch_lora_weights.safetensors"  # name under which diffusers saves a LoRA
CHOICES = {
    "quantization": QUANTIZATIONS,
    "offload": OFFLOADS,
    "compile": COMPILES,
    "layerwise_casting": STORAGES,
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a model is set up to run; everything here is in a clip's JSON.

    Attributes:
        quantization: format of the weights of linear layers, one of `QUANTIZATIONS`: package and type.
        quantized: components whose weights are quantized; transformers that the model does not have are ignored.
        gguf: GGUF file of the first transformer: a local path, or `owner/name/FILE` in a Hugging Face repository.
        loras: LoRAs that are added to the model's own, each as `FILE_OR_REPO[:STRENGTH[:COMPONENT]]`, where
            FILE_OR_REPO is a local file, `owner/name/FILE` or `owner/name`; see :func:`parse_lora`.
        layerwise_casting: dtype in which the transformers store their weights, one of `STORAGES`; each layer is cast
            to the dtype of the model while it runs.
        offload: offloading to the CPU: "none", "model", "sequential", or groups of "blocks" or of "leaves"; "auto"
            offloads by model if the weights do not fit the free memory of the GPU.
        blocks_per_group: blocks in one group, for `offload="blocks"`.
        stream: copy the next group while the current one runs, for an offload of groups on a CUDA device.
        compile: what torch.compile compiles: the "blocks" of the transformers, or the "whole" transformers.
        compile_backend: backend of torch.compile.
        attention_backend: attention kernel of the transformers by its name in diffusers, such as "flash" or "sage".
        cache: cache of the transformers, one of `CACHES`, with the fields of its configuration in diffusers, as in
            "FirstBlockCache:threshold=0.1".
        scheduler: class name of the scheduler, in place of the model's.
        shift: shift of the noise levels, in place of the model's.
        vae_tiling: decode in tiles; None for the default of the model.
        vae_slicing: decode the clips of a batch one after the other; None for the default of the model.

    Raises:
        ValueError: a wrong value, or two options that do not go together, by name, with the reason.

    Examples:
        >>> from vidguide import Setup
        >>> Setup(offload="blocks", blocks_per_group=2, vae_tiling=True).offload
        'blocks'
    """

    __pydantic_config__: ClassVar[ConfigDict] = REJECT_UNKNOWN
    quantization: str | None = None
    quantized: tuple[str, ...] = TRANSFORMERS
    gguf: str | None = None
    loras: tuple[str, ...] = ()
    layerwise_casting: str | None = None
    offload: str = "auto"
    blocks_per_group: int = 1
    stream: bool = False
    compile: str | None = None
    compile_backend: str = "inductor"
    attention_backend: str | None = None
    cache: str | None = None
    scheduler: str | None = None
    shift: float | None = None
    vae_tiling: bool | None = None
    vae_slicing: bool | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if (value is not None or name == "offload") and value not in choices:
                close = suggestion(str(value), choices)
                raise ValueError(f"{name}={value!r}: must be one of {', '.join(choices)}{close}")
        for name in ("quantized", "loras"):
            if not isinstance(getattr(self, name), tuple):
                raise TypeError(f"{name}={getattr(self, name)!r}: must be a tuple of texts")
        check_switches(self)
        check_numbers(self)
        check_cache(self.cache)
        for lora in self.loras:
            parse_lora(lora)
        if self.gguf is not None:
            locate_file(self.gguf, "gguf")
        check_together(self)

    def values(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as plain values."""
        changed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}

    def options(self) -> set[str]:
        """Return the names of the options that are in use, as `CONFLICTS` has them."""
        changed = self.values()
        options = {name for name, value in changed.items() if value is not False}
        options |= {f"{name}={value}" for name, value in changed.items() if name in CHOICES}
        return options | {f"quantization={self.quantization.partition('-')[0]}"} if self.quantization else options


@dataclass(frozen=True)
class Conflict:
    """Two options that do not go together, as `option` or `option=value`, and the reason with the cure."""

    first: str
    second: str
    reason: str


# Pairs that are refused. tests/pipelines/test_setup_pairs.py removes this table, and tests that each pair fails or
# samples another clip, and that all others sample the right one.
CONFLICTS = (
    Conflict("quantization", "gguf", "both give the weights of the transformer; leave one out"),
    Conflict("quantization", "layerwise_casting", "quantized weights cannot be cast; leave one out"),
    Conflict("gguf", "layerwise_casting", "quantized weights cannot be cast; leave one out"),
    Conflict("quantization=quanto", "offload=sequential", "accelerate cannot move such weights; use offload='leaves'"),
    Conflict("gguf", "offload=sequential", "accelerate cannot move such weights; use offload='leaves'"),
)


def check_switches(setup: Setup) -> None:
    """Refuse switches that are neither on nor off; raises TypeError, naming the option."""
    for name in ("stream", "vae_tiling", "vae_slicing"):
        value = getattr(setup, name)
        if not isinstance(value, bool) and not (value is None and name != "stream"):
            raise TypeError(f"{name}={value!r}: must be True or False")


def check_numbers(setup: Setup) -> None:
    """Refuse wrong numbers, and options that need another one.

    Raises:
        ValueError, TypeError: naming the option.
    """
    if type(setup.blocks_per_group) is not int or setup.blocks_per_group < 1:
        raise ValueError(f"blocks_per_group={setup.blocks_per_group!r}: must be an integer of at least 1")
    if setup.shift is not None and not (type(setup.shift) in (int, float) and 0 < setup.shift < float("inf")):
        raise ValueError(f"shift={setup.shift!r}: must be a finite number above 0")
    if setup.blocks_per_group > 1 and setup.offload != "blocks":
        raise ValueError(f"blocks_per_group={setup.blocks_per_group}: needs offload='blocks', not {setup.offload!r}")
    if setup.stream and setup.offload not in GROUPS:
        raise ValueError(f"stream=True: needs offload='blocks' or 'leaves', not {setup.offload!r}")
    if not setup.quantized:
        raise ValueError("quantized=(): must name a component, such as transformer; or leave quantization out")
    if setup.quantization is None and setup.quantized != TRANSFORMERS:
        raise ValueError(f"quantized={setup.quantized!r}: needs quantization, such as torchao-int8")
    if setup.compile is None and setup.compile_backend != "inductor":
        raise ValueError(f"compile_backend={setup.compile_backend!r}: needs compile='blocks' or 'whole'")


def check_cache(spec: str | None) -> None:
    """Refuse an unknown name of a cache, with a ValueError."""
    name = None if spec is None else spec.partition(":")[0]
    if name is not None and name not in CACHES:
        raise ValueError(f"cache={spec!r}: must be one of {', '.join(CACHES)}{suggestion(name, CACHES)}")


def check_together(setup: Setup) -> None:
    """Refuse two options that do not go together, by the table `CONFLICTS`.

    Raises:
        ValueError: naming both, with the reason and the cure.
    """
    options = setup.options()
    for conflict in CONFLICTS:
        if {conflict.first, conflict.second} <= options:
            raise ValueError(f"{conflict.first} with {conflict.second}: {conflict.reason}")


def parse_lora(spec: str) -> Lora:
    """Return a LoRA from `FILE_OR_REPO[:STRENGTH[:COMPONENT]]`, such as `style.safetensors:0.8`.

    FILE_OR_REPO is a local file, `owner/name/FILE` of a Hugging Face repository, or a folder or `owner/name` alone, for
    a file with the name that diffusers gives. COMPONENT is `transformer_2` for the second expert of Wan 2.2.

    Raises:
        ValueError: naming the part.
    """
    parts = spec.split(":")
    if len(parts) > 3:
        raise ValueError(f"lora {spec!r}: must be FILE_OR_REPO:STRENGTH:COMPONENT")
    place, strength, component = (*parts, *("", "1", "transformer")[len(parts) :])
    if component not in TRANSFORMERS:
        raise ValueError(f"lora {spec!r}: component {component!r} must be one of {', '.join(TRANSFORMERS)}")
    if not is_finite(strength):
        raise ValueError(f"lora {spec!r}: strength {strength!r} must be a number")
    source, file = locate_file(place, "lora", LORA_FILE)
    return Lora(source=source, file=file, strength=float(strength), component=component)


def is_finite(text: str) -> bool:
    """Return whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def locate_file(text: str, option: str, default: str | None = None) -> tuple[str, str]:
    """Return the folder or repo id, and the name of a file in it.

    Args:
        text: local path, `owner/name/FILE`, or a folder or `owner/name` if there is a default file.
        option: for messages.
        default: file of a folder or a repository.

    Raises:
        ValueError: naming the option.
    """
    path = Path(text).expanduser()
    if path.is_dir() and default is not None:
        return str(path), default
    if path.is_file() or path.is_absolute() or text.startswith((".", "~")):
        return str(path.parent), path.name
    owner, name, file = (*text.split("/", 2), "", "")[:3]
    file = file or default or ""
    if not (owner and name and file):
        wanted = "owner/name/FILE or owner/name" if default else "owner/name/FILE"
        raise ValueError(f"{option}={text!r}: must be a file, or {wanted} of a Hugging Face repository")
    return f"{owner}/{name}", file

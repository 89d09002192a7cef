"""Load a pipeline from a shipped name, a preset, a local folder or a Hugging Face repo id."""

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vidguide.eval.files import suggestion
from vidguide.eval.hub import only_cached
from vidguide.pipelines.loading.assemble import (
    DTYPE,
    check_requirements,
    configure,
    diffusers_class,
    load_loras,
    single_file_components,
    vae_dtype,
)
from vidguide.pipelines.loading.hub import (
    FINGERPRINTS,
    INDICES,
    check_configs,
    fingerprints,
    is_repo_id,
    read_index,
    weight_files,
)
from vidguide.pipelines.loading.modular import build_modular, check_modular, is_modular_index
from vidguide.pipelines.loading.progress_bars import loading_bars
from vidguide.pipelines.loading.quantization import quantization_arguments
from vidguide.pipelines.loading.scheduler import scheduler_of
from vidguide.pipelines.loading.set_up import check_setup, set_up, with_files
from vidguide.pipelines.models.presets import MODELS, PRESETS
from vidguide.pipelines.models.spec import SHIPPED, Model
from vidguide.pipelines.request.setup import Setup
from vidguide.pipelines.request.visual_inputs import check_use, partner, takes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ANSI = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal
MISSING = re.compile(r"\| MISSING|newly initialized")  # in transformers' report of a model


def resolve(model: str | os.PathLike[str] | Model) -> Model:
    """Return the declaration of a model; of a folder or repo id, one without settings.

    Raises:
        ValueError: the name is not a shipped name, a preset, a folder with a model_index.json, or a repo id.
    """
    name = model_name(model)
    if isinstance(model, Model) or name in MODELS:
        return declaration(model)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / index).is_file() for index in INDICES):
            raise ValueError(f"model={name!r}: must be a diffusers pipeline folder; it has no model_index.json")
        return Model(source=str(folder))
    if folder.exists() or not is_repo_id(name):
        raise ValueError(
            f"model={name!r}: unknown{suggestion(name, MODELS)}. Pass a shipped name ({', '.join(SHIPPED)}), a preset "
            f"({', '.join(PRESETS)}), a local pipeline folder, or a Hugging Face repo id such as "
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
        )
    return Model(source=name)


def declaration(model: str | os.PathLike[str] | Model) -> Model:
    """Return the declaration of a model by name, without a check; of an unknown name, one without settings."""
    return model if isinstance(model, Model) else MODELS.get(os.fspath(model)) or Model(source=os.fspath(model))


def model_name(model: str | os.PathLike[str] | Model) -> str:
    """Return the name of a model in messages and provenance."""
    return model.source if isinstance(model, Model) else os.fspath(model)


def choose_device(device: str | None) -> torch.device:
    """Return the device; None for CUDA if available, else MPS, else the CPU.

    Raises:
        ValueError: torch does not know the device, or CUDA is not available.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device={device!r}: must be cpu, cuda, cuda:1 or mps") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: CUDA is not available on this machine or in this torch build; use cpu")
    return chosen


def choose_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """Return the dtype, one of `DTYPES`; None for bfloat16 on CUDA and float32 elsewhere."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def load(
    model: str | os.PathLike[str] | Model = "tiny",
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    setup: Setup | None = None,
    image: bool | None = None,
    last_image: bool | None = None,
    video: bool | None = None,
    progress: bool = True,
) -> Any:
    """Load a diffusers pipeline.

    Args:
        model: shipped name, preset, local pipeline folder, Hugging Face repo id, or a :class:`Model`.
        revision: branch, tag or commit of a repo id.
        device: None for CUDA if available, else MPS, else the CPU.
        dtype: "float32", "bfloat16" or "float16"; None for bfloat16 on CUDA and float32 elsewhere. The VAE is in
            float32, as Wan's requires, except where the pipeline runs it in the dtype of the model.
        setup: quantization, LoRAs, offload, compilation and more; None for the defaults of :class:`Setup`.
        image, last_image, video: whether clips start from a first image, have a last one, or start from a video;
            selects the pipeline class where the same weights serve several. None for the class in `model_index.json`.
        progress: show progress bars of downloads and loading.

    Raises:
        ValueError: a wrong argument, by name.
        OSError: the model's files cannot be read or downloaded.
        ImportError: the model needs another package, or a newer diffusers. All before large files are downloaded.
    """
    declared, setup = resolve(model), setup or Setup()
    if revision is not None:
        declared = dataclasses.replace(declared, revision=revision)
    target = choose_device(device)
    precision = choose_dtype(dtype, target)
    if image is not None and declared.image is not None:
        check_use(model_name(model), declared.image, image)
    complete = with_files(declared, setup)
    check_requirements(complete)
    with loading_bars(progress):
        with errors_naming(model_name(model)):
            index = read_index(declared.source, declared.revision)
        if is_modular_index(index):
            check_modular(complete, setup)
            with errors_naming(model_name(model)):
                return build_modular(declared, precision).to(target)
        pipeline_class = choose_pipeline(declared, index, {"image": image, "last_image": last_image, "video": video})
        check_setup(setup, declared, index, pipeline_class, target)
        scheduler = scheduler_of(setup, declared, index)
        with errors_naming(model_name(model)):
            pipe = build(complete, pipeline_class, index, precision, setup)
        if scheduler is not None:
            pipe.scheduler = scheduler
        set_up(pipe, setup, target)
    return pipe


@contextmanager
def errors_naming(model: str) -> Iterator[None]:
    """Raise errors in the context as OSError, or ImportError, with the name of the model."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"model={model!r}: cannot be loaded: {error}") from error
    except (OSError, ValueError) as error:
        raise OSError(f"model={model!r}: cannot be loaded: {error}") from error
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:  # of libraries that read wrong files
        raise OSError(f"model={model!r}: cannot be loaded: {type(error).__name__}: {error}") from error


def build(model: Model, pipeline_class: Any, index: dict[str, Any], dtype: torch.dtype, setup: Setup) -> Any:
    """Return the pipeline of a declaration, on the CPU. LoRAs and checkpoints are located before the download."""
    check_configs(Path(model.source), index)
    files = weight_files(model)
    dtypes = {"default": dtype, "vae": vae_dtype(pipeline_class.__name__, dtype)}
    components = single_file_components(model, index, files, dtypes)
    options = dict(revision=model.revision, variant=model.variant, local_files_only=only_cached(model.source))
    options |= quantization_arguments(setup, index, dtype)
    with missing_weights_refused():
        pipe = pipeline_class.from_pretrained(model.source, **options, **components, **{DTYPE: dtypes})
    check_weights(pipe)
    load_loras(pipe, model.loras, files)
    configure(pipe, model)
    FINGERPRINTS[pipe] = fingerprints(files)
    return pipe


@contextmanager
def missing_weights_refused() -> Iterator[None]:
    """Raise OSError where transformers reports weights that were not in a model's files: it draws them at random.

    The report is read whatever the verbosity is; it is shown as the verbosity says.
    """
    reports: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: reports.append(ANSI.sub("", record.getMessage()))  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    level, others = logger.level, [(other, other.level) for other in logger.handlers]
    for other, threshold in others:
        other.setLevel(max(threshold, level))
    logger.addHandler(handler)
    logger.setLevel(min(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        for other, threshold in others:
            other.setLevel(threshold)
    if report := next(filter(MISSING.search, reports), None):
        raise OSError(f"its files lack weights; download them again, or correct its config.json: {report}")


def check_weights(pipe: Any) -> None:
    """Refuse a pipeline some of whose weights were not in its files: they have no values, and cannot be moved.

    Raises:
        OSError: naming the component and a weight.
    """
    for name, module in pipe.components.items():
        weights = module.named_parameters() if isinstance(module, torch.nn.Module) else ()
        missing = [weight for weight, value in weights if value.is_meta]
        if missing:
            raise OSError(
                f"{name}: its files lack {len(missing)} weights that its config.json needs, such as {missing[0]!r}; "
                "download them again, or correct its config.json"
            )


def choose_pipeline(model: Model, index: dict[str, Any], given: Mapping[str, bool | None]) -> Any:
    """Return the pipeline class: the declared one, or that of `model_index.json`, or its partner for an image or video.

    Args:
        model: declaration of the model.
        index: content of the folder's `model_index.json`.
        given: whether each input of `INPUTS` is given; None or missing if that is not known.

    Raises:
        ValueError: an input is given or missing, and no pipeline of these weights allows that.
    """
    import diffusers

    name = model.pipeline or str(index.get("_class_name"))
    pipeline_class = getattr(diffusers, name, None)
    if pipeline_class is None:
        return diffusers.DiffusionPipeline  # handles code in the repository
    for wanted in ("image", "video"):
        if given.get(wanted) and takes(pipeline_class, wanted) == "no" and (other := partner(name, index, wanted)):
            pipeline_class = diffusers_class(other)
    for wanted, value in given.items():
        if value is not None:
            check_use(pipeline_class.__name__, takes(pipeline_class, wanted), value, wanted)
    return pipeline_class

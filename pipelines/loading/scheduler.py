"""The scheduler that a setup asks for, made from the model's before any weights are downloaded."""

import inspect
from typing import Any

from vidguide.eval.hub import only_cached
from vidguide.pipelines.loading.assemble import diffusers_class, scheduler_for
from vidguide.pipelines.models.spec import Model
from vidguide.pipelines.request.setup import Setup


def scheduler_of(setup: Setup, model: Model, index: dict[str, Any]) -> Any:
    """Return the scheduler of a setup; None where it leaves the model's.

    Args:
        setup: as for :func:`vidguide.pipelines.loading.load.load`.
        model: declaration of the model.
        index: content of the folder's `model_index.json`.

    Raises:
        ValueError, ImportError: the model cannot be sampled with it, or it takes no shift. OSError: the configuration
            of the model's scheduler cannot be read.
    """
    if setup.scheduler is None and setup.shift is None:
        return None
    loaded = diffusers_class(index["scheduler"][1]).from_pretrained(
        model.source, subfolder="scheduler", revision=model.revision, local_files_only=only_cached(model.source)
    )
    current = scheduler_for(loaded, model) if model.scheduler or model.scheduler_settings else loaded
    chosen = type(current) if setup.scheduler is None else diffusers_class(setup.scheduler)
    check_levels(model, chosen)
    if setup.shift is not None and shift_name(chosen) is None:
        raise ValueError(f"shift={setup.shift}: {chosen.__name__} takes no shift")
    if chosen is type(current) and (setup.shift is None or is_flow(current.config)):
        return chosen.from_config(current.config, **shift_settings(chosen, setup.shift))
    return convert(current, chosen, setup.shift)


def check_levels(model: Model, chosen: Any) -> None:
    """Refuse a scheduler that does not take the noise levels that the model declares, with a ValueError."""
    for name in ("sigmas", "timesteps"):
        if getattr(model, name) is not None and name not in inspect.signature(chosen.set_timesteps).parameters:
            raise ValueError(f"scheduler={chosen.__name__!r}: does not take the model's {name}; use another one")


def shift_name(scheduler: Any) -> str | None:
    """Return the name of the shift among the settings of a scheduler class; None if it has none."""
    settings = inspect.signature(scheduler.__init__).parameters
    return next((name for name in ("shift", "flow_shift") if name in settings), None)


def shift_settings(scheduler: Any, shift: float | None) -> dict[str, Any]:
    """Return the settings of a scheduler class for a shift, which no longer depends on the size of the clip."""
    name = shift_name(scheduler)
    if shift is None or name is None:
        return {}
    fixed = {"use_dynamic_shifting": False}
    known = inspect.signature(scheduler.__init__).parameters
    return {name: shift, **{key: value for key, value in fixed.items() if key in known}}


def is_flow(config: Any) -> bool:
    """Return whether a scheduler's configuration is that of flow matching."""
    return "shift" in config or bool(config.get("use_flow_sigmas"))


def convert(current: Any, chosen: Any, shift: float | None) -> Any:
    """Return a scheduler of another class with the noise levels and the prediction of the current one.

    Raises:
        ValueError: the class cannot have them.
    """
    config = current.config
    if not is_flow(config):
        if shift is not None:
            raise ValueError(f"shift={shift}: is of flow matching, which this model's noise levels are not")
        if chosen not in current.compatibles:
            names = ", ".join(sorted(each.__name__ for each in current.compatibles))
            raise ValueError(f"scheduler={chosen.__name__!r}: must be one of {names} for this model")
        return chosen.from_config(config)
    settings = inspect.signature(chosen.__init__).parameters
    if "shift" not in settings and "use_flow_sigmas" not in settings:
        raise ValueError(
            f"scheduler={chosen.__name__!r}: cannot sample flow matching; use FlowMatchEulerDiscreteScheduler, "
            "UniPCMultistepScheduler or DPMSolverMultistepScheduler"
        )
    if shift is None and config.get("use_dynamic_shifting"):
        raise ValueError(
            f"scheduler={chosen.__name__!r}: the model's shift depends on the size of the clip, and its scheduler "
            "computes it; give shift as well"
        )
    shift = shift if shift is not None else config.get("shift", config.get("flow_shift"))
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True} if "use_flow_sigmas" in settings else {}
    return chosen(num_train_timesteps=config["num_train_timesteps"], **flow, **shift_settings(chosen, shift))

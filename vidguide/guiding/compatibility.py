"""Refusal of guidances that do not work with a cache of diffusers, a form of parallelism, or each other."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from vidguide.calls.call import Call
from vidguide.calls.guided_model import GuidedModel
from vidguide.guidances.base import Guidance
from vidguide.guidances.emag import EMAG
from vidguide.guidances.negative_prompt import NegativePromptGuidance
from vidguide.guidances.second_pass import SelfGuidance
from vidguide.transformer.caches import Caches
from vidguide.transformer.family import Family

ONE_STATE = {"PyramidAttentionBroadcast", "FasterCache", "SeaCache", "TextKVCache"}  # no state for each context
COUNTING = {"MagCache", "TaylorSeer"}  # count the steps of each context
OF_BLOCKS = {"FirstBlockCache", "MagCache"}  # controlled by the first and the last block
WEAKER = ("do_spatio_temporal_guidance", "do_modality_isolation_guidance")  # of LTX-2, which rescales after them too
LINEAR = ("ClassifierFreeGuidance", "LTX2Guidance")  # guiders whose rule adds differences of predictions
CURE = "call disable_cache() on the transformer"


def check_together(guidances: tuple[Guidance, ...], model: GuidedModel) -> None:
    """Refuse guidances that do not work together on a model.

    Raises:
        ValueError: EMAG averages maps in joint attention that also carries a negative text, or corrections with
            different values of `rescale` are added up.
    """
    check_rescale(guidances)
    texts = [type(guidance).__name__ for guidance in guidances if isinstance(guidance, NegativePromptGuidance)]
    for guidance in guidances:
        if not isinstance(guidance, EMAG) or guidance.variant == "query":
            continue
        if texts and model.family.joint is not None:
            raise ValueError(
                f"EMAG(variant={guidance.variant!r}) with {texts[0]} in joint attention: the video has a map for "
                "each of two texts there; use variant='query'"
            )


def check_rescale(guidances: tuple[Guidance, ...]) -> None:
    """Refuse corrections that are added up and then rescaled by different shares.

    Raises:
        ValueError: naming the guidances and their values.
    """
    added = [guidance for guidance in guidances if isinstance(guidance, SelfGuidance) and not guidance.neutral]
    outside = [guidance for guidance in added if not guidance.before_cfg]
    if len({guidance.rescale for guidance in outside}) > 1:
        listed = ", ".join(f"{type(guidance).__name__}(rescale={guidance.rescale})" for guidance in outside)
        raise ValueError(f"{listed}: the sum of their corrections is rescaled once; give all the same rescale")


def check_caches(guidance: Guidance, model: GuidedModel, caches: Caches) -> None:
    """Refuse, before the first step of a run, a guidance whose result an installed cache would make wrong.

    Raises:
        ValueError: naming the guidance, the cache, the reason and the cure.
    """
    for kind in sorted(caches.kinds):
        reason = _cache_reason(kind, guidance, model, caches.hooks)
        if reason is not None and not guidance.neutral:
            raise ValueError(f"{type(guidance).__name__} with {kind}: {reason}, or {CURE}")


def check_caches_of_uncond(guidance: Guidance, family: Family, caches: Caches) -> None:
    """Refuse caches with one state for all passes where the pipeline makes an unconditional call too.

    Raises:
        ValueError: in joint attention, whose texts differ in length between the two calls.
    """
    shared = caches.kinds & ONE_STATE
    if shared and family.joint is not None:
        raise ValueError(
            f"{type(guidance).__name__} with {shared.pop()}: it stores one state for conditional and unconditional "
            "calls, whose texts differ in length here; switch off the pipeline's guidance (true_cfg_scale=1, "
            f"or guidance_scale=1), or {CURE}"
        )


def _cache_reason(kind: str, guidance: Guidance, model: GuidedModel, hooks: list[Any]) -> str | None:
    """Return why a guidance does not work with a cache and what to do, or None."""
    if kind == "FasterCache" and not all(getattr(hook, "is_guidance_distilled", True) for hook in hooks):
        return (
            "it skips the unconditional half of the batch at some steps and does not say at which; call the pipeline "
            "without guidance_scale and with is_guidance_distilled=True in the cache's config"
        )
    if guidance.extra_pass:
        return _cache_reason_of_extra_pass(kind, guidance, model)
    if guidance.windowed and isinstance(guidance, NegativePromptGuidance) and model.family.joint is not None:
        return "cached texts are longer within the window than outside; leave out start and stop"
    return None


def _cache_reason_of_extra_pass(kind: str, guidance: Guidance, model: GuidedModel) -> str | None:
    """Return why a guidance with an extra pass does not work with a cache and what to do, or None."""
    reason = cache_reason(kind, guidance)
    if reason is None and kind in OF_BLOCKS and {0, model.depth - 1} & set(guidance.skipped_blocks(model)):
        return "the first and the last block control it, and one of them is skipped; choose other layers"
    return reason


def cache_reason(kind: str, guidance: Guidance) -> str | None:
    """Return why a guidance does not work with a cache on any model and what to do, or None.

    Args:
        kind: name of the cache in diffusers.
        guidance: a guidance.
    """
    name = type(guidance).__name__
    if not guidance.extra_pass or guidance.neutral:
        return None
    if kind in ONE_STATE:
        return f"it stores one state for all passes, that of {name}'s extra pass too; use FirstBlockCache"
    if kind in COUNTING and guidance.pauses:
        return f"it counts the steps of {name}'s extra pass, which some have not; give a scale that is never off"
    if kind == "TaylorSeer" and guidance.start > 0:
        # In one step one pass would be extrapolated and the other computed, and their difference is scaled.
        return f"it counts the steps of {name}'s extra pass from {name}'s first one on; give start=0"
    if kind == "MagCache" and guidance.windowed:
        return "its ratios count the passes from the first step on; give start=0, stop=1"
    return None


def check_pipeline_cfg(guidance: Guidance, call: Call, pipe: Any) -> None:
    """Refuse, before the first step of a run, a correction that the pipeline's CFG would change.

    A correction `d` is added to both predictions that the pipeline combines: `u + w (c - u)` then moves by `d` at any
    scale. Other rules may not.

    Raises:
        ValueError: naming the guidance, the pipeline's rule, and the cure.
    """
    if guidance.neutral or not isinstance(guidance, SelfGuidance) or guidance.before_cfg:
        return
    if guidance.rescale > 0 and pipeline_combines(call, pipe):
        raise ValueError(
            f"{type(guidance).__name__}(rescale={guidance.rescale}): the pipeline's own guidance combines after it; "
            "pass guidance_scale=1 to the pipeline and list CFG(...) in guide"
        )
    rule = _other_rule(call, pipe)
    if rule is not None:
        raise ValueError(
            f"{type(guidance).__name__} with {rule}: its correction is added to the guided prediction, which this "
            "would change; switch it off, or switch the pipeline's guidance off and list CFG(...) in guide"
        )


def pipeline_combines(call: Call, pipe: Any) -> bool:
    """Return whether the pipeline combines predictions: by its own guidance, or by a guider."""
    guides = call.pipeline_guides or any(getattr(pipe, name, False) for name in WEAKER)
    return guides or getattr(getattr(pipe, "guider", None), "num_conditions", 1) > 1


def _other_rule_of_guider(guider: Any) -> str | None:
    """Return a description of a guider's rule where it is not `u + w (c - u)`, else None."""
    name, rescale = type(guider).__name__, getattr(guider, "guidance_rescale", 0) or 0
    if name not in LINEAR:
        return f"the pipeline's guider {name}"
    return f"the guider's guidance_rescale={rescale}" if rescale > 0 else None


def _other_rule(call: Call, pipe: Any) -> str | None:
    """Return a description of the pipeline's rule of combination where it is not `u + w (c - u)`, else None."""
    guider = getattr(pipe, "guider", None)
    if guider is not None and getattr(guider, "num_conditions", 1) > 1:
        return _other_rule_of_guider(guider)
    if not call.pipeline_guides and not any(getattr(pipe, name, False) for name in WEAKER):
        return None
    rescale = getattr(pipe, "guidance_rescale", 0) or 0
    if rescale > 0:
        return f"guidance_rescale={rescale}"
    if getattr(getattr(pipe, "config", None), "is_cfg_zero_star", False):
        return f"is_cfg_zero_star of {type(pipe).__name__}"
    return None


def check_order(guidance: Guidance, branch: str, first: bool, steps: int | None) -> None:
    """Refuse an unconditional or weaker call that this step's change of the conditional prediction cannot reach.

    Args:
        branch: "uncond" or "weaker". first: whether the step had no conditional call yet.
        steps: number of steps, None for a bare transformer without a scheduler.

    Raises:
        ValueError: naming the guidance and the cure.
    """
    outside = isinstance(guidance, SelfGuidance) and not guidance.before_cfg
    if not (guidance.once_a_step if branch == "weaker" else outside):
        return
    who = f"{type(guidance).__name__} with {'an unconditional' if branch == 'uncond' else 'a weaker'} call"
    if steps is None:
        raise ValueError(f"{who}: a bare transformer needs scheduler= as well, which tells the calls of one step")
    if first:
        raise ValueError(f"{who} before the conditional one of the step: make the conditional call first")


def check_steps_needed(guidances: Sequence[Guidance], model: Any) -> None:
    """Refuse guidances whose effect depends on the step where nothing counts the steps.

    Args:
        model: a bare transformer, or a pipeline that has neither a scheduler nor a loop that counts.

    Raises:
        ValueError: naming the guidance and the cure.
    """
    for guidance in guidances:
        if guidance.needs_steps:
            window = f"(start={guidance.start}, stop={guidance.stop})" if guidance.windowed else ""
            what = f"{type(guidance).__name__}{window}: its effect depends on the step"
            if isinstance(model, nn.Module):
                raise ValueError(f"{what}; a bare transformer needs scheduler= as well")
            lack = f"which no scheduler and no loop of this {type(model).__name__} counts"
            raise ValueError(f"{what}, {lack}; leave out start, stop and schedules, or pass scheduler= to guide")


def check_one_step(guidance: Guidance, call: Call, pipe: Any) -> None:
    """Refuse, before the first step of a run, diffusion forcing where the effect depends on the step.

    Such a pipeline steps a copy of its scheduler for each frame, so the step of the clip is not known. With a bare
    transformer, the scheduler that is passed to `guide` defines it.

    Raises:
        ValueError: naming the guidance and the cure.
    """
    if pipe is not None and guidance.needs_steps and call.inputs.get("enable_diffusion_forcing"):
        raise ValueError(
            f"{type(guidance).__name__} under diffusion forcing: its effect depends on the step, and each frame is at "
            "a step of its own; leave out start, stop and schedules, or use SkyReelsV2Pipeline"
        )


def check_parallel(guidance: Guidance, model: GuidedModel) -> None:
    """Refuse, before the first step of a run, joint attention under context parallel, and split heads.

    Raises:
        ValueError: naming the guidance, the family, the reason and the cure.
    """
    if not guidance.edits_attention or guidance.neutral:
        return
    parallel = getattr(model.original, "_parallel_config", None)
    if getattr(parallel, "tensor_parallel_config", None) is not None:  # not in 0.36
        raise ValueError(
            f"{type(guidance).__name__} under tensor parallel: a rank has some of the heads, and what is measured is "
            "of all; split the sequence by ContextParallelConfig instead, or guide it without enable_parallelism"
        )
    if model.parallel.active and model.family.joint is not None:
        raise ValueError(
            f"{type(guidance).__name__} under context parallel: in {model.family.name} text and video share one "
            "sequence, and diffusers does not say on which rank a second text would lie; guide it without "
            "enable_parallelism"
        )

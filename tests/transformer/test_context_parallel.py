"""Context parallel: guidance on two processes equals that on one, over gloo on a CPU.

diffusers 0.42.1 runs Ulysses and ring attention there, once it takes the CPU for one device (it divides by the number
of accelerators) and the ring's attention tells its log-sum-exp; `two_ranks.py` does both, and splits nothing itself.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import torch.distributed
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from tests.helpers.tiny_families import BY_NAME
from tests.helpers.tiny_wan import negative_text, tiny_wan, wan_inputs
from tests.helpers.two_ranks import GUIDANCES, PROFILE, RANKS, Case, main
from vidguide import EMAG, NAG, STG, guide
from vidguide.guidances.base import Guidance

WAN, LTX = "WanTransformer3DModel", "LTXVideoTransformer3DModel"
QUICK: list[Case] = [
    *((WAN, "Ulysses", kind) for kind in ("nothing", "NAG", "NAG by clip", "EMAG")),
    *((WAN, "ring", kind) for kind in ("nothing", "NAG and EMAG")),
]
ALL_DTYPES: list[Case] = [
    *((WAN, "Ulysses", kind) for kind in (*GUIDANCES, PROFILE)),
    *((WAN, "ring", kind) for kind in ("nothing", "NAG by clip", "NAG and EMAG")),
    *((LTX, "Ulysses", kind) for kind in ("nothing", "NAG", "VSF", "EMAG", "CFG and CADS")),
    *((LTX, "ring", kind) for kind in ("nothing", "NAG")),
]
Found = list[dict[Case, tuple[Tensor, Tensor]]]


def on_two(folder: Path, cases: list[Case], device: str) -> Found:
    """What each rank found: alone, and beside the other."""
    spawn(main, (cases, str(folder), device), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    return on_two(tmp_path_factory.mktemp("ranks"), request.param, "cpu")


def agree(found: Found, case: Case, atol: float) -> None:
    """Both ranks have what one process has, which is not what it has unguided."""
    for alone, beside in (rank[case] for rank in found):
        torch.testing.assert_close(beside, alone, atol=atol, rtol=0)
    assert torch.equal(found[0][case][1], found[1][case][1])
    if case[2] not in ("nothing", PROFILE):
        assert (found[0][case][1] - found[0][(*case[:2], "nothing")][0]).abs().max() > 1e-2


@pytest.mark.parametrize("found", [QUICK], indirect=True, ids=["two ranks"])
@pytest.mark.parametrize("case", QUICK, ids="-".join)
def test_two_ranks_find_what_one_does(found: Found, case: Case) -> None:
    agree(found, case, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("found", [ALL_DTYPES], indirect=True, ids=["two ranks"])
@pytest.mark.parametrize("case", ALL_DTYPES, ids="-".join)
def test_two_ranks_find_what_one_does_whatever_the_guidance(found: Found, case: Case) -> None:
    agree(found, case, 1e-6)


@pytest.mark.gpu2
@pytest.mark.skipif(torch.cuda.device_count() < RANKS, reason="needs two GPUs")
def test_two_gpus_find_what_one_does(tmp_path: Path) -> None:
    cases = [(WAN, "Ulysses", kind) for kind in (*GUIDANCES, PROFILE)]
    found = on_two(tmp_path, cases, "cuda")
    for case in cases:
        agree(found, case, 1e-4)


def split(model: Any) -> Any:
    """The model as if `enable_parallelism` had been called."""
    model._parallel_config = SimpleNamespace(context_parallel_config=SimpleNamespace(ulysses_degree=RANKS))
    return model


@pytest.mark.parametrize("name", ["CogVideoX", "HunyuanVideo", "Mochi"])
@pytest.mark.parametrize(
    "make", [lambda negative: NAG(negative_prompt_embeds=negative), lambda _: EMAG()], ids=["NAG", "EMAG"]
)
def test_joint_attention_is_refused_and_diffusers_has_no_plan_for_it(name: str, make: Any) -> None:
    tiny = BY_NAME[f"{name}Transformer3DModel"]
    model = split(tiny.make())
    assert model._cp_plan is None
    refused_before_any_step(model, make(tiny.negative()), tiny.inputs(2), "text and video share one sequence.*without")


def test_split_heads_are_refused() -> None:
    model = tiny_wan()
    model._parallel_config = SimpleNamespace(context_parallel_config=None, tensor_parallel_config=object())
    nag = NAG(negative_prompt_embeds=negative_text())
    refused_before_any_step(model, nag, wan_inputs(), "NAG under tensor parallel: .*ContextParallelConfig instead")


def test_maps_are_refused() -> None:
    emag = EMAG(variant="map", start=0, stop=1)
    refused_before_any_step(split(tiny_wan()), emag, wan_inputs(), r"EMAG\(variant='map'\) under context.*'query'")


def refused_before_any_step(model: Any, guidance: Guidance, inputs: dict[str, Any], message: str) -> None:
    steps = []
    model.register_forward_pre_hook(lambda *args: steps.append(1))
    with guide(model, guidance, scheduler=(scheduler := diffusers.FlowMatchEulerDiscreteScheduler())):
        scheduler.set_timesteps(2)
        with pytest.raises(ValueError, match=message):
            model(**inputs)
    assert not steps


def test_a_split_that_is_set_within_guide_is_seen() -> None:
    tiny = BY_NAME["MochiTransformer3DModel"]
    model, stg = tiny.make(), STG(mode="attention", layers=(1,))
    with guide(model, stg):
        model(**tiny.inputs(1))
        with pytest.raises(ValueError, match="STG under context parallel"):
            split(model)(**tiny.inputs(1))


def test_neutral_guidance_is_not_asked() -> None:
    model = tiny_wan()
    plain = model(**wan_inputs())[0]
    with guide(split(model), NAG(negative_prompt_embeds=negative_text(), scale=1)):
        assert torch.equal(model(**wan_inputs())[0], plain)

"""Context parallel: guidance on two processes equals guidance on one, over gloo on a CPU.

`two_ranks.py` patches diffusers 0.42.1 in two places, as it divides by the number of accelerators and its native
attention returns no log-sum-exp to the ring. The split itself is diffusers'.
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
ALL_CASES: list[Case] = [
    *((WAN, "Ulysses", kind) for kind in (*GUIDANCES, PROFILE)),
    *((WAN, "ring", kind) for kind in ("nothing", "NAG by clip", "NAG and EMAG")),
    *((LTX, "Ulysses", kind) for kind in ("nothing", "NAG", "VSF", "EMAG", "CFG and CADS")),
    *((LTX, "ring", kind) for kind in ("nothing", "NAG")),
]
Results = list[dict[Case, tuple[Tensor, Tensor]]]


def run_two_ranks(folder: Path, cases: list[Case], device: str) -> Results:
    """Return the results of each rank: of one process, and of both."""
    spawn(main, (cases, str(folder), device), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    return run_two_ranks(tmp_path_factory.mktemp("ranks"), request.param, "cpu")


def assert_ranks_equal(results: Results, case: Case, atol: float) -> None:
    """Assert that both ranks equal one process, and that the guidance acts."""
    for single, parallel in (rank[case] for rank in results):
        torch.testing.assert_close(parallel, single, atol=atol, rtol=0)
    assert torch.equal(results[0][case][1], results[1][case][1])
    if case[2] not in ("nothing", PROFILE):
        assert (results[0][case][1] - results[0][(*case[:2], "nothing")][0]).abs().max() > 1e-2


@pytest.mark.sampled(2)
@pytest.mark.parametrize("results", [QUICK], indirect=True, ids=["two ranks"])
@pytest.mark.parametrize("case", QUICK, ids="-".join)
def test_two_ranks_equal_one_process(results: Results, case: Case) -> None:
    assert_ranks_equal(results, case, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("results", [ALL_CASES], indirect=True, ids=["two ranks"])
@pytest.mark.parametrize("case", ALL_CASES, ids="-".join)
def test_two_ranks_equal_one_process_for_every_guidance(results: Results, case: Case) -> None:
    assert_ranks_equal(results, case, 1e-6)


@pytest.mark.gpu2
@pytest.mark.skipif(torch.cuda.device_count() < RANKS, reason="needs two GPUs")
def test_two_gpus_equal_one_gpu(tmp_path: Path) -> None:
    cases = [(WAN, "Ulysses", kind) for kind in (*GUIDANCES, PROFILE)]
    results = run_two_ranks(tmp_path, cases, "cuda")
    for case in cases:
        assert_ranks_equal(results, case, 1e-4)


def set_parallel_config(model: Any) -> Any:
    """Set the model's parallel config as `enable_parallelism` does."""
    model._parallel_config = SimpleNamespace(context_parallel_config=SimpleNamespace(ulysses_degree=RANKS))
    return model


@pytest.mark.parametrize("name", ["CogVideoX", "HunyuanVideo", "Mochi"])
@pytest.mark.parametrize(
    "make", [lambda negative: NAG(negative_prompt_embeds=negative), lambda _: EMAG()], ids=["NAG", "EMAG"]
)
def test_joint_attention_raises_and_diffusers_has_no_plan_for_it(name: str, make: Any) -> None:
    tiny = BY_NAME[f"{name}Transformer3DModel"]
    model = set_parallel_config(tiny.make())
    assert model._cp_plan is None
    assert_raises_before_the_first_step(
        model, make(tiny.negative()), tiny.inputs(2), "text and video share one sequence.*without"
    )


def test_tensor_parallel_raises() -> None:
    model = tiny_wan()
    model._parallel_config = SimpleNamespace(context_parallel_config=None, tensor_parallel_config=object())
    nag = NAG(negative_prompt_embeds=negative_text())
    assert_raises_before_the_first_step(
        model, nag, wan_inputs(), "NAG under tensor parallel: .*ContextParallelConfig instead"
    )


def test_emag_maps_raise() -> None:
    emag = EMAG(variant="map", start=0, stop=1)
    assert_raises_before_the_first_step(
        set_parallel_config(tiny_wan()), emag, wan_inputs(), r"EMAG\(variant='map'\) under context.*'query'"
    )


def assert_raises_before_the_first_step(model: Any, guidance: Guidance, inputs: dict[str, Any], message: str) -> None:
    steps = []
    model.register_forward_pre_hook(lambda *args: steps.append(1))
    with guide(model, guidance, scheduler=(scheduler := diffusers.FlowMatchEulerDiscreteScheduler())):
        scheduler.set_timesteps(2)
        with pytest.raises(ValueError, match=message):
            model(**inputs)
    assert not steps


def test_context_parallel_enabled_inside_guide_is_checked() -> None:
    tiny = BY_NAME["MochiTransformer3DModel"]
    model, stg = tiny.make(), STG(mode="attention", layers=(1,))
    with guide(model, stg):
        model(**tiny.inputs(1))
        with pytest.raises(ValueError, match="STG under context parallel"):
            set_parallel_config(model)(**tiny.inputs(1))


def test_neutral_guidances_are_not_checked() -> None:
    model = tiny_wan()
    plain = model(**wan_inputs())[0]
    with guide(set_parallel_config(model), NAG(negative_prompt_embeds=negative_text(), scale=1)):
        assert torch.equal(model(**wan_inputs())[0], plain)

"""The kinds of weights that metrics use: source, licence and required packages.

No metric loads weights by default: without them it is listed as unavailable, with the option that provides them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of weights.

    Attributes:
        example: a suitable model: hub id, or file name and publisher.
        licence: of that model's weights, as its publisher states it.
        packages: required to load it.
        unavailable: why it cannot be loaded here at all; empty for kinds that can.
    """

    example: str
    licence: str
    packages: tuple[str, ...] = ("transformers",)
    unavailable: str = ""

    @property
    def on_hub(self) -> bool:
        """Return whether the example is a hub id."""
        return " " not in self.example


KINDS: Mapping[str, Kind] = {
    "clip": Kind(example="openai/clip-vit-base-patch32", licence="MIT"),
    "xclip": Kind(example="microsoft/xclip-base-patch32", licence="MIT"),
    "dino": Kind(example="facebook/dino-vitb16", licence="Apache-2.0"),
    "aesthetic": Kind(
        example="sa_0_4_vit_l_14_linear.pth of LAION-AI/aesthetic-predictor, with --clip openai/clip-vit-large-patch14",
        licence="MIT",
        packages=(),
    ),
    "vqa": Kind(
        example="a folder of Qwen/Qwen2.5-VL-7B-Instruct or another vision-language model with a chat template",
        licence="Apache-2.0 (Qwen2.5-VL-7B)",
    ),
    "pickscore": Kind(example="yuvalkirstain/PickScore_v1", licence="none stated with the weights"),
    "hps": Kind(example="HPS_v2.1_compressed.pt of xswu/HPSv2, or a CLIPModel converted from it", licence="Apache-2.0"),
    "raft": Kind(
        example="raft_large_C_T_V1_SKHT-ff5fadd5.pth of torchvision", licence="BSD-3-Clause", packages=("torchvision",)
    ),
    "fvd": Kind(
        example="i3d_torchscript.pt of universome/fvd-comparison, or a folder of MCG-NJU/videomae-base",
        licence="none stated with I3D's file; CC-BY-NC-4.0 (VideoMAE)",
    ),
    "jedi": Kind(example="a folder of facebook/vjepa2-vitl-fpc16-256-ssv2", licence="MIT"),
    "external": Kind(
        example="VBench or VBench-2.0, in its own environment",
        licence="Apache-2.0, some of its networks non-commercial",
        packages=(),
        unavailable="no: from VBench itself, by export-vbench and import-vbench",
    ),
    "votes": Kind(
        example="votes of people, collected with `vidguide serve`",
        licence="yours",
        packages=(),
        unavailable="with --votes FILE",
    ),
}


def missing_requirement(kinds: tuple[str, ...]) -> str:
    """Return what a metric with these kinds of weights lacks to run here; empty if nothing is missing."""
    if reasons := [KINDS[kind].unavailable for kind in kinds if KINDS[kind].unavailable]:
        return reasons[0]
    packages = [name for kind in kinds for name in KINDS[kind].packages if find_spec(name) is None]
    if packages:
        return f"no: {', '.join(packages)} is not installed"
    uncached = [kind for kind in kinds if not is_cached(kind)]
    return f"with {' '.join(f'--{kind} MODEL' for kind in uncached)}" if uncached else ""


def is_cached(kind: str) -> bool:
    """Return whether the example model of a kind is in the local cache of the hub."""
    from huggingface_hub import try_to_load_from_cache

    return KINDS[kind].on_hub and isinstance(try_to_load_from_cache(KINDS[kind].example, "config.json"), str)

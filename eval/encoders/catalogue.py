"""The kinds of weights that metrics can be given: where they come from, under which licence, and what loads them.

None is downloaded unasked: a metric without its weights is listed as not available, with the flag that brings them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of weights.

    Attributes:
        example: a model that fits, by hub id, or the file and who publishes it.
        licence: of that model's weights, as its publisher states it.
        packages: that must be installed to load it.
        here: why nothing can load it here; empty for those that can be loaded.
    """

    example: str
    licence: str
    packages: tuple[str, ...] = ("transformers",)
    here: str = ""

    @property
    def hub(self) -> bool:
        """Whether the example is a hub id."""
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
    "pickscore": Kind(example="yuvalkirstain/PickScore_v1", licence="none stated with the weights"),
    "hps": Kind(example="HPS_v2.1_compressed.pt of xswu/HPSv2, or a CLIPModel made of it", licence="Apache-2.0"),
    "raft": Kind(
        example="raft_large_C_T_V1_SKHT-ff5fadd5.pth of torchvision", licence="BSD-3-Clause", packages=("torchvision",)
    ),
    "external": Kind(
        example="VBench, in an environment of its own",
        licence="Apache-2.0, some of its networks non-commercial",
        packages=(),
        here="no: from VBench itself, by export-vbench and import-vbench",
    ),
}


def lacking(kinds: tuple[str, ...]) -> str:
    """What keeps a metric with these kinds of weights from running here; empty where nothing does."""
    if elsewhere := [KINDS[kind].here for kind in kinds if KINDS[kind].here]:
        return elsewhere[0]
    packages = [name for kind in kinds for name in KINDS[kind].packages if find_spec(name) is None]
    if packages:
        return f"no: {', '.join(packages)} is not installed"
    unknown = [kind for kind in kinds if not cached(kind)]
    return f"with {' '.join(f'--{kind} MODEL' for kind in unknown)}" if unknown else ""


def cached(kind: str) -> bool:
    """Whether the example of a kind lies in the cache of the hub."""
    from huggingface_hub import try_to_load_from_cache

    return KINDS[kind].hub and isinstance(try_to_load_from_cache(KINDS[kind].example, "config.json"), str)

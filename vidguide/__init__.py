"""Training-free guidance for the video diffusion transformers of diffusers."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidguide.cads import CADS
    from vidguide.cfg import APG, CFG, CFGZeroStar
    from vidguide.clip import Clip
    from vidguide.emag import EMAG
    from vidguide.guiding import guide
    from vidguide.nag import NAG
    from vidguide.pipelines.generate import generate
    from vidguide.seg import SEG
    from vidguide.sites import locate
    from vidguide.skip import PAG, STG
    from vidguide.vsf import VSF

__version__ = "0.1.0"
__all__ = [
    "APG",
    "CADS",
    "CFG",
    "EMAG",
    "NAG",
    "PAG",
    "SEG",
    "STG",
    "VSF",
    "CFGZeroStar",
    "Clip",
    "generate",
    "guide",
    "locate",
]

# Found when first used, so that `import vidguide` loads neither torch nor diffusers. The core names the rooms that
# lean on it only here, as strings.
_HOMES = {
    "APG": "vidguide.cfg",
    "CADS": "vidguide.cads",
    "CFG": "vidguide.cfg",
    "CFGZeroStar": "vidguide.cfg",
    "EMAG": "vidguide.emag",
    "PAG": "vidguide.skip",
    "SEG": "vidguide.seg",
    "STG": "vidguide.skip",
    "NAG": "vidguide.nag",
    "VSF": "vidguide.vsf",
    "Clip": "vidguide.clip",
    "generate": "vidguide.pipelines.generate",
    "guide": "vidguide.guiding",
    "locate": "vidguide.sites",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vidguide' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)

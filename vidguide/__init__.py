"""Training-free guidance for the video diffusion transformers of diffusers."""

import importlib
from typing import TYPE_CHECKING, Any

from vidguide.version import __version__

if TYPE_CHECKING:
    from vidguide.clip import Clip
    from vidguide.guidances.cads import CADS
    from vidguide.guidances.cfg_rules.apg import APG
    from vidguide.guidances.cfg_rules.cfg import CFG
    from vidguide.guidances.cfg_rules.cfg_zero_star import CFGZeroStar
    from vidguide.guidances.cfg_rules.mambo_g import MAMBOG
    from vidguide.guidances.cfg_rules.tcfg import TCFG
    from vidguide.guidances.emag import EMAG
    from vidguide.guidances.enhance_a_video import EnhanceAVideo
    from vidguide.guidances.nag import NAG
    from vidguide.guidances.pag import PAG
    from vidguide.guidances.s2_guidance import S2Guidance
    from vidguide.guidances.seg import SEG
    from vidguide.guidances.stg import STG
    from vidguide.guidances.tpg import TPG
    from vidguide.guidances.vsf import VSF
    from vidguide.guiding.attach import attach, attached, detach
    from vidguide.guiding.guide import guide
    from vidguide.guiding.locate import locate
    from vidguide.pipelines.calibration.calibrate import calibrate
    from vidguide.pipelines.generate import generate
    from vidguide.pipelines.request.setup import Setup

__all__ = [
    "APG",
    "CADS",
    "CFG",
    "EMAG",
    "MAMBOG",
    "NAG",
    "PAG",
    "SEG",
    "STG",
    "TCFG",
    "TPG",
    "VSF",
    "CFGZeroStar",
    "Clip",
    "EnhanceAVideo",
    "S2Guidance",
    "Setup",
    "__version__",
    "attach",
    "attached",
    "calibrate",
    "detach",
    "generate",
    "guide",
    "locate",
]

# Imported on first use, so that `import vidguide` loads neither torch nor diffusers. Only here does the core name
# packages that depend on it, as strings.
_MODULES = {
    "APG": "vidguide.guidances.cfg_rules.apg",
    "CADS": "vidguide.guidances.cads",
    "CFG": "vidguide.guidances.cfg_rules.cfg",
    "CFGZeroStar": "vidguide.guidances.cfg_rules.cfg_zero_star",
    "EMAG": "vidguide.guidances.emag",
    "EnhanceAVideo": "vidguide.guidances.enhance_a_video",
    "MAMBOG": "vidguide.guidances.cfg_rules.mambo_g",
    "PAG": "vidguide.guidances.pag",
    "S2Guidance": "vidguide.guidances.s2_guidance",
    "SEG": "vidguide.guidances.seg",
    "Setup": "vidguide.pipelines.request.setup",
    "STG": "vidguide.guidances.stg",
    "NAG": "vidguide.guidances.nag",
    "TCFG": "vidguide.guidances.cfg_rules.tcfg",
    "TPG": "vidguide.guidances.tpg",
    "VSF": "vidguide.guidances.vsf",
    "Clip": "vidguide.clip",
    "attach": "vidguide.guiding.attach",
    "attached": "vidguide.guiding.attach",
    "calibrate": "vidguide.pipelines.calibration.calibrate",
    "detach": "vidguide.guiding.attach",
    "generate": "vidguide.pipelines.generate",
    "guide": "vidguide.guiding.guide",
    "locate": "vidguide.guiding.locate",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vidguide' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)

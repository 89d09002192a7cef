"""Optical flow by RAFT, with torchvision and weights that the user has."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

UPDATES = 20  # of the flow, as in VBench


class Raft:
    """torchvision's RAFT (large), whose weights C_T_V1 are those of the paper's own code, ported."""

    def __init__(self, file: str, device: str = "cpu") -> None:
        import torch

        try:
            from torchvision.models.optical_flow import raft_large
        except Exception as error:  # a torchvision built for another torch raises RuntimeError
            raise ImportError(f"raft: torchvision cannot be loaded ({error}); pip install torchvision") from None
        self.model: Any = raft_large(weights=None).to(device).eval()
        self.model.load_state_dict(torch.load(file, map_location=device, weights_only=True))
        self.weights = f"{Path(file).name} {hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]}"

    @property
    def place(self) -> str:
        """Device and dtype."""
        one = next(self.model.parameters())
        return f"{one.device} {str(one.dtype).removeprefix('torch.')}"

    def flow(self, first: "Tensor", second: "Tensor") -> "Tensor":
        """Displacement `(1, 2, H, W)` in pixels between images `(1, 3, H, W)` of 0..255, sides multiples of 8."""
        import torch

        device = next(self.model.parameters()).device
        images = [(image / 127.5 - 1).to(device) for image in (first, second)]
        with torch.inference_mode():
            flow: Tensor = self.model(*images, num_flow_updates=UPDATES)[-1]
        return flow.cpu()

"""Optical flow by RAFT of torchvision."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidguide.eval.hashing import read_blocks, short_sha256

if TYPE_CHECKING:
    from torch import Tensor

UPDATES = 20  # of the flow, as in VBench


class Raft:
    """torchvision's RAFT (large); its weights C_T_V1 are ported from the paper's own code."""

    def __init__(self, file: str, device: str = "cpu") -> None:
        import torch

        try:
            from torchvision.models.optical_flow import raft_large
        except Exception as error:  # a torchvision built for another torch raises RuntimeError
            raise ImportError(f"raft: torchvision cannot be imported ({error}); pip install torchvision") from None
        self.model: Any = raft_large(weights=None).to(device).eval()
        self.model.load_state_dict(torch.load(file, map_location=device, weights_only=True))
        self.weights = f"{Path(file).name} {short_sha256(read_blocks(Path(file)))}"

    @property
    def place(self) -> str:
        """Return device and dtype."""
        parameter = next(self.model.parameters())
        return f"{parameter.device} {str(parameter.dtype).removeprefix('torch.')}"

    def flow(self, first: "Tensor", second: "Tensor") -> "Tensor":
        """Return the displacement `(1, 2, H, W)` in pixels from the first to the second image.

        Args:
            first, second: images `(1, 3, H, W)` in 0..255; H and W must be multiples of 8.
        """
        import torch

        device = next(self.model.parameters()).device
        images = [(image / 127.5 - 1).to(device) for image in (first, second)]
        with torch.inference_mode():
            flow: Tensor = self.model(*images, num_flow_updates=UPDATES)[-1]
        return flow.cpu()

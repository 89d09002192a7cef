"""Install plans at a transformer's attention sites and blocks: the only module that writes to them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from vidguide.attention.plan import AttentionPlan
from vidguide.attention.site import AttentionSite
from vidguide.attention.sites import InterceptedProcessors
from vidguide.calls.call import Recorded
from vidguide.calls.guided_model import GuidedModel
from vidguide.transformer.block_replay import BlockReplay
from vidguide.transformer.cfg_batch import Batch
from vidguide.transformer.text_stream import installed_stream

INSTALLED = (  # of a site, for one pass
    *("edit", "outputs", "perturbation", "observers", "batch", "recording", "calls", "rotary"),
)


class Installation:
    """The sites and blocks of one transformer, and the plan that is installed there."""

    def __init__(self, model: GuidedModel, blocks: BlockReplay) -> None:
        self.sites, self.blocks = model.sites, blocks
        self.text_sites = list(model.text_sites.values())
        self.processors = InterceptedProcessors(model.original, self.sites)

    @contextmanager
    def intercepted(self) -> Iterator[None]:
        """Intercept attention processors and blocks within the block; restore them afterwards."""
        with self.processors.installed(), self.blocks.installed():
            yield

    @contextmanager
    def installed(self, plan: AttentionPlan, batch: Batch) -> Iterator[None]:
        """Install a plan for one forward pass whose rows are those of `batch`; restore what was installed before."""
        before = [{name: getattr(site, name) for name in INSTALLED} for site in self.sites]
        try:
            for site in self.sites:
                _install(site, plan, batch)
            with ExitStack() as stack:
                stack.enter_context(installed_stream(plan.second_text, batch))
                stack.enter_context(self.blocks.recording(plan.rerun_from))
                stack.enter_context(self.blocks.skipping(plan.skipped_blocks))
                stack.enter_context(self.blocks.changing(plan.block_inputs))
                yield
        finally:
            for site, values in zip(self.sites, before, strict=True):
                site.measured = None
                for name, value in values.items():
                    setattr(site, name, value)

    @contextmanager
    def recorded(self, plan: AttentionPlan) -> Iterator[Recorded]:
        """Yield a dict that holds, after the block, the keys, values and masks that the plan's sites recorded."""
        recorded: Recorded = {}
        try:
            yield recorded
            for site in self.text_sites:  # in their order
                if site in plan.recorded and site.recorded is not None:
                    recorded[site] = site.recorded
        finally:
            for site in plan.recorded:
                site.recorded = None


def _install(site: AttentionSite, plan: AttentionPlan, batch: Batch) -> None:
    site.edit, site.perturbation = plan.edits.get(site), plan.perturbations.get(site)
    site.outputs, site.observers = plan.outputs.get(site, ()), plan.observers.get(site, ())
    site.recording, site.batch = site in plan.recorded, batch
    site.calls, site.rotary, site.measured = 0, None, None

"""The metric of votes on pairs of clips. It is computed from a file of votes; nothing is measured on the frames."""

from vidguide.eval.clips.errors import UndefinedError
from vidguide.eval.metrics.base import Value, metric
from vidguide.eval.metrics.sample import Sample

PREFERENCE = "preference.human"


@metric(
    id=PREFERENCE,
    version="share-of-votes/1",
    unit="share of votes",
    low=0.0,
    high=1.0,
    better="higher",
    encoders=("votes",),
)
def human_preference(sample: Sample) -> Value:
    """Count which of two clips people prefer, of the same prompt and seed and in random order: the share of votes won.

    A tie is half a win; a skipped pair is no vote. Between two arms each prompt has the same weight, and in it each
    rater; "wins" is the win rate of the arm, and the difference is the share won minus the share lost. Its interval is
    for further prompts and further raters, and is wide for few raters; with one rater it is for further prompts only.
    The value of a clip counts its votes against all arms. Direction: higher is better. Range: 0 to 1, 1/2 is no
    preference. Unit: share of votes. Fooled by: raters who see which arm is which, hurry, or always choose one side
    (reported). Source: votes from `vidguide serve`; variances of prompts and raters by Gao and Owen 2017, exact
    interval at the effective number of votes by Korn and Graubard 1998.
    """
    raise UndefinedError("no votes were given; collect them with `vidguide serve`, and pass --votes")

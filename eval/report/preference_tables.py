"""The statistics of votes on pairs of clips, as tables and sentences for every output format."""

from vidguide.eval.scoring.agreement import Agreement
from vidguide.eval.scoring.bradley_terry import Strength
from vidguide.eval.scoring.preference import Preference, RaterSummary, WinRate
from vidguide.eval.scoring.summary import number

WIN_RATES = "Votes: win rate of each pair of variants, ties as half wins, with 95% intervals"
STRENGTHS = "Votes: strengths of Bradley and Terry in log-odds, 0 is the mean, with 95% intervals"
RATERS = "Votes: raters"
REPORT_ONLY = ("sign test", "ties")  # columns that 80 characters have no room for
TextTable = tuple[str, list[str], list[list[str]]]  # title, header and rows


def preference_tables(preference: Preference | None) -> list[TextTable]:
    """Return the tables of win rates, strengths and raters; none without votes."""
    if preference is None:
        return []
    rates = ["pair", "wins", "p", "sign test", "votes", "ties", "prompts", "raters"]
    tables = [(WIN_RATES, rates, [win_rate_row(rate) for rate in preference.win_rates])]
    if len(preference.strengths) > 2:  # of two variants the win rate says all
        header = ["variant", "strength", "95% interval", "wins against the mean", "votes"]
        tables.append((STRENGTHS, header, [strength_row(each) for each in preference.strengths]))
    header = ["rater", "votes", "skipped", "chose left", "median seconds"]
    tables.append((RATERS, header, [rater_row(rater) for rater in preference.raters]))
    return [table for table in tables if table[2]]


def win_rate_row(rate: WinRate) -> list[str]:
    """Return the row of a pair of variants."""
    count = rate.won + rate.lost
    sign = f"{number(rate.p_sign)} ({rate.won} of {count} prompt{'s' if count != 1 else ''})" if count else ""
    wins = f"{rate.share:.0%} ({rate.low:.0%} to {rate.high:.0%})"
    counts = [str(count) for count in (rate.votes, rate.ties, rate.prompts, rate.raters)]
    return [f"{rate.other} against {rate.reference}", wins, number(rate.p), sign, *counts]


def strength_row(each: Strength) -> list[str]:
    """Return the row of a variant."""
    interval = f"{each.low:+.2f} to {each.high:+.2f}"
    return [each.variant, f"{each.strength:+.2f}", interval, f"{each.share:.0%}", str(each.votes)]


def rater_row(rater: RaterSummary) -> list[str]:
    """Return the row of a rater."""
    left = "" if rater.left is None else f"{rater.left:.0%}"
    return [rater.rater, str(rater.votes), str(rater.skipped or ""), left, f"{rater.seconds:.1f}"]


def preference_notes(preference: Preference | None) -> list[str]:
    """Return sentences on missing strengths, agreement, sides and times, and on what the raters' number allows."""
    if preference is None:
        return []
    notes = [f"Strengths: none; {preference.without_strengths}."] if preference.without_strengths else []
    notes.append(describe_agreement(preference.agreement))
    if preference.left:
        share, low, high = preference.left
        notes.append(f"Left clip: chosen in {share:.0%} ({low:.0%} to {high:.0%}) of the votes that are no tie.")
    return [*notes, f"Median time of a vote: {preference.seconds:.1f} s.", *preference.notes]


def describe_agreement(agreement: Agreement) -> str:
    """Return Krippendorff's alpha as a sentence."""
    if agreement.alpha is None:
        return f"Agreement of raters: undefined; {agreement.reason}."
    pairs = f"{agreement.pairs} pair{'s' if agreement.pairs != 1 else ''} of clips"
    return f"Agreement of raters: Krippendorff's alpha {agreement.alpha:.2f} on {pairs}; 1 is perfect, 0 is chance."

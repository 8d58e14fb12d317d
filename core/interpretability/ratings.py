"""Asking a judge about neurons: what it will cost, then one answer after the other, each saved as it comes.

An answer that was saved is never asked for again, so that a run that was stopped or killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from core.interpretability.contexts import NeuronContexts
from core.interpretability.rubric import SCHEMA, BadAnswerError, parse_verdict, question, question_digest
from core.models.judge import AT_ONCE, Judge
from core.progress import Progress
from core.results.ratings import Kind, NeuronRating, RatingStore

ATTEMPTS = 3  # at a valid answer
LABEL_SCORE = 2  # from which on a summary names something that the neuron fires on
_CHARACTERS_A_TOKEN = 4  # of English, for the estimate
_TOKENS_AN_ANSWER = 40


@dataclass(frozen=True)
class Rated:
    """The setup that ratings belong to."""

    setup: str
    fingerprint: str  # of its store

    def rating(
        self, shown: NeuronContexts, kind: Kind, rater: str, score: int | None, summary: str = "", problem: str = ""
    ) -> NeuronRating:
        """A rating of one neuron's contexts."""
        return NeuronRating(
            setup=self.setup,
            fingerprint=self.fingerprint,
            source=shown.source,
            neuron=shown.neuron,
            question=question_digest(shown),
            kind=kind,
            rater=rater,
            score=score,
            summary=summary,
            problem=problem,
        )


@dataclass(frozen=True)
class Plan:
    """What a judge will be asked, and what it answered before."""

    rated: Rated
    judge: Judge
    due: tuple[NeuronContexts, ...]
    known: int  # neurons with an answer
    questions: tuple[str, ...] = field(repr=False, default=())

    @property
    def tokens_in(self) -> int:
        """An estimate of the tokens that the judge will read."""
        return sum(map(len, self.questions)) // _CHARACTERS_A_TOKEN

    @property
    def tokens_out(self) -> int:
        """An estimate of the tokens that it will write."""
        return _TOKENS_AN_ANSWER * len(self.due)

    def __str__(self) -> str:
        """The cost, in words."""
        before = f"{self.known:,} answered before; " if self.known else ""
        if not self.due:
            return f"{self.rated.setup}: {before}nothing to ask {self.judge.model}"
        return (
            f"{self.rated.setup}: {before}{len(self.due):,} requests to {self.judge.model} at {self.judge.url}, about "
            f"{self.tokens_in:,} tokens to read and {self.tokens_out:,} to write, at most {ATTEMPTS} times that"
        )


def make_plan(
    sample: Sequence[NeuronContexts], rated: Rated, judge: Judge, store: RatingStore, *, again: bool = False
) -> Plan:
    """What is left to ask.

    Args:
        again: ask again where no valid answer was given.
    """
    table = store.ratings(rated.setup)
    mine = table[(table["kind"] == "judge") & (table["rater"] == judge.model)]
    if again:
        mine = mine[mine["score"].notna()]
    known = set(zip(mine["neuron"], mine["question"], strict=True))
    due = tuple(shown for shown in sample if (shown.neuron, question_digest(shown)) not in known)
    return Plan(rated, judge, due, len(sample) - len(due), tuple(map(question, due)))


def ask(judge: Judge, text: str) -> tuple[int | None, str, str]:
    """Score, summary and problem: the judge's answer, or why it gives no valid one in `ATTEMPTS` times.

    Raises:
        JudgeError: the endpoint does not answer.
    """
    problem = ""
    for _ in range(ATTEMPTS):
        complaint = f"\n\nYour last answer was not valid ({problem}). Answer with the JSON alone." if problem else ""
        try:
            verdict = parse_verdict(judge.ask(text + complaint, SCHEMA))
        except BadAnswerError as exc:
            problem = str(exc)
        else:
            return verdict.score, verdict.summary, ""
    return None, "", problem


def save(store: RatingStore, ratings: Sequence[NeuronRating]) -> None:
    """Saves ratings, and the summaries as labels: a judge's, and a person's where nobody has given the neuron one.

    A summary of a neuron with no discernible pattern names nothing, and becomes no label.
    """
    store.save_ratings(ratings)
    named = [rating for rating in ratings if rating.summary and (rating.score or 0) >= LABEL_SCORE]
    for setup, kind in dict.fromkeys((rating.setup, rating.kind) for rating in named):
        labels = {r.neuron: r.summary for r in named if (r.setup, r.kind) == (setup, kind)}
        if kind == "judge":
            store.save_labels(setup, labels, "judge")
            continue
        known = store.labels(setup)
        taken = set(known.loc[known["source"] == "user", "neuron"])
        store.save_labels(setup, {n: label for n, label in labels.items() if n not in taken}, "user")


def carry_out(plan: Plan, store: RatingStore, progress: Progress = lambda stage, share: None) -> None:
    """Asks what is due, several at once, and saves the answers as they come.

    Stopped, it waits for the answers under way and saves them.

    Raises:
        JudgeError: the endpoint does not answer; what it answered before is saved.
    """

    def one(shown: NeuronContexts, text: str) -> NeuronRating:
        return plan.rated.rating(shown, "judge", plan.judge.model, *ask(plan.judge, text))

    def keep(futures: set[Future[NeuronRating]]) -> None:
        save(store, [f.result() for f in futures if not f.cancelled() and f.exception() is None])

    pool = ThreadPoolExecutor(AT_ONCE)
    asked = {pool.submit(one, *pair) for pair in zip(plan.due, plan.questions, strict=True)}
    kept: set[Future[NeuronRating]] = set()
    try:
        while kept < asked:
            done = wait(asked - kept, return_when=FIRST_COMPLETED).done
            keep(done)
            kept |= done
            for future in done:
                future.result()  # raises what the judge raised
            progress(f"judging: {len(kept):,} of {len(asked):,} neurons", len(kept) / len(asked))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        keep(asked - kept)

"""One replica of a continuously batching engine, as a discrete-event process.

Follows vLLM's v1 scheduler. A step first gives every running sequence its next token, preempting
the youngest while a block is missing; what is left of the token budget computes prompts, first
come first served, in chunks. A waiting request is admitted when a sequence slot is free and its
whole prompt fits into the free blocks; a step that preempted admits nobody. A preempted sequence
returns to the head of the queue and recomputes its prompt and what it had generated.

All per-step work is O(1) in the batch size: decodes share one step counter, so their context,
their next block and their end follow from sums, a histogram of phases and a heap.
"""

import math
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

from foundry.errors import InvalidRequest

BLOCK_TOKENS = 16
# Largest relative departure from a straight line at the middle of a jump.
JUMP_TOLERANCE = 1e-3


class StepTime(Protocol):
    """How long one engine step takes."""

    def step_s(
        self, prefill_tokens: float, prefill_context: float, decodes: float, decode_context: float
    ) -> float:
        """Seconds, > 0 and finite.

        Args:
            prefill_tokens: prompt tokens computed in this step, over all chunks.
            prefill_context: pairs of such a token and a token it attends to, itself included: a
                chunk of m tokens behind c cached ones adds m·c + m(m + 1)/2.
            decodes: sequences that decode one token each.
            decode_context: tokens they attend to, summed over them, the new ones included.
        """


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What bounds the batches of each replica.

    Attributes:
        max_num_seqs: running sequences.
        max_num_batched_tokens: of one step; ≥ max_num_seqs, as vLLM demands.
        kv_tokens: that the KV cache holds; rounded down to blocks of BLOCK_TOKENS.
        max_model_len: prompt and output tokens of one request; None: only memory bounds them.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_tokens: int
    replicas: int = 1
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "replicas"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name} is {getattr(self, name)}: give at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InvalidRequest(
                f"max_num_batched_tokens {self.max_num_batched_tokens} is below max_num_seqs "
                f"{self.max_num_seqs}: a step could not serve every running sequence"
            )
        if self.kv_tokens < BLOCK_TOKENS:
            raise InvalidRequest(
                f"kv_tokens is {self.kv_tokens}: no block of {BLOCK_TOKENS} tokens fits"
            )

    def admits(self, prompt: int, output: int) -> bool:
        """Whether a request can ever be served: its last output token needs no cache."""
        fits = _blocks(prompt + output - 1) <= self.kv_tokens // BLOCK_TOKENS
        return fits and (self.max_model_len is None or prompt + output <= self.max_model_len)


@dataclass(slots=True)
class Sequences:
    """The N requests of a run as columns, shared by its replicas.

    Lists, not arrays: a step touches single entries.

    Attributes:
        prefix: prompt tokens found in the prefix cache, < prompt.
        goal: tokens whose cache the next output token needs: the prompt, after a preemption
            also what had been generated.
        computed: of `goal`, while the sequence prefills.
        produced: output tokens, as of the sequence's last change of state.
        origin: cached tokens minus the replica's step count; constant while it decodes.
        last_step: step count at which it has all its output; -1: preempted since.
        started, first_token, finished: seconds; NaN: not yet.
    """

    prompt: list[int]
    output: list[int]
    prefix: list[int]
    goal: list[int]
    computed: list[int]
    produced: list[int]
    origin: list[int]
    last_step: list[int]
    started: list[float]
    first_token: list[float]
    finished: list[float]
    preemptions: list[int]

    @classmethod
    def of(cls, prompt: list[int], output: list[int], prefix: list[int]) -> "Sequences":
        zeros, never = [0] * len(prompt), [math.nan] * len(prompt)
        return cls(
            prompt=prompt,
            output=output,
            prefix=prefix,
            goal=prompt.copy(),
            computed=zeros.copy(),
            produced=zeros.copy(),
            origin=zeros.copy(),
            last_step=zeros.copy(),
            started=never.copy(),
            first_token=never.copy(),
            finished=never.copy(),
            preemptions=zeros.copy(),
        )


class Replica:
    """One engine. `start` schedules, `finish` applies what was scheduled; between the two the
    engine is `busy`, with one step or with a jump over many pure decode steps.

    A jump takes its step times from a straight line between its first and its last step, halved
    until the middle departs from the line by at most JUMP_TOLERANCE. It is exact where the step
    time is affine in the context. `exact` runs single steps.
    """

    def __init__(
        self, sequences: Sequences, limits: EngineLimits, step: StepTime, *, exact: bool = False
    ) -> None:
        self.blocks = limits.kv_tokens // BLOCK_TOKENS
        self.waiting: deque[int] = deque()
        self.busy = False
        self.busy_s = 0.0
        self.peak_blocks = 0
        self._sequences = sequences
        self._limits = limits
        self._step = step
        self._exact = exact
        self._running: dict[int, None] = {}  # oldest first
        self._partial: int | None = None  # the one sequence whose prompt is partly computed
        self._free = self.blocks
        self._step_count = 0
        self._decodes = 0
        self._context = 0  # cached tokens of all decoding sequences
        self._phases = [0] * BLOCK_TOKENS  # decoding sequences by origin modulo block
        self._ends: list[tuple[int, int]] = []  # (last_step, sequence); stale after a preemption
        self._chunks: list[tuple[int, int]] = []  # (sequence, prompt tokens) of the step under way
        self._began = 0.0
        self._count = 0  # steps under way
        self._first_s = 0.0
        self._slope_s = 0.0

    @property
    def steps(self) -> int:
        """Engine steps so far."""
        return self._step_count

    @property
    def outstanding(self) -> int:
        return len(self.waiting) + len(self._running)

    @property
    def has_slot(self) -> bool:
        """Whether one more request would not have to queue for a sequence slot."""
        return self.outstanding < self._limits.max_num_seqs

    def start(self, now: float) -> float | None:
        """Schedule; the time at which it is done, None without work."""
        preempted = self._make_room()
        self._chunks = []
        budget, free = self._continue_prompt()
        if not preempted and self.waiting:
            self._admit(now, budget, free)
        if not self._chunks and not self._decodes:
            return None
        self.busy = True
        self._began = now
        if self._chunks:
            tokens, pairs = self._prefill_size()
            self._plan(1, self._seconds(tokens, pairs, 0), 0.0)
        elif preempted or self._exact:
            self._plan(1, self._seconds(0, 0, 0), 0.0)
        else:
            self._jump()
        return now + self._elapsed(self._count)

    def interrupt(self, now: float) -> float | None:
        """Shorten a jump to the step under way at `now`, if a new request could join earlier than
        at the jump's end; the new end, None if it stays."""
        if self._count < 2 or self.waiting or len(self._running) >= self._limits.max_num_seqs:
            return None
        passed = now - self._began
        first = self._first_s - self._slope_s / 2
        # Root of first·j + slope·j²/2 = passed in the form that a vanishing slope leaves finite.
        root = math.sqrt(max(0.0, first * first + 2 * self._slope_s * passed))
        count = min(max(1, math.ceil(2 * passed / (first + root))), self._count)
        while count < self._count and self._elapsed(count) < passed:
            count += 1
        while count > 1 and self._elapsed(count - 1) >= passed:
            count -= 1
        if count == self._count:
            return None
        self._count = count
        return self._began + self._elapsed(count)

    def finish(self, now: float) -> list[int]:
        """Apply the step or jump that ends now; the sequences that it completed."""
        self.busy = False
        self.busy_s += now - self._began
        self._free -= self._growth(self._count)
        self.peak_blocks = max(self.peak_blocks, self.blocks - self._free)
        self._context += self._count * self._decodes
        self._step_count += self._count
        done = []
        while self._ends and self._ends[0][0] <= self._step_count:
            last_step, sequence = heappop(self._ends)
            if sequence in self._running and self._sequences.last_step[sequence] == last_step:
                self._leave_decode(sequence)
                done.append(sequence)
        done += [
            sequence for sequence, size in self._chunks if self._prefilled(sequence, size, now)
        ]
        for sequence in done:
            del self._running[sequence]
            self._sequences.finished[sequence] = now
        return done

    def _plan(self, count: int, first_s: float, slope_s: float) -> None:
        self._count, self._first_s, self._slope_s = count, first_s, slope_s

    def _elapsed(self, count: int) -> float:
        return count * self._first_s + self._slope_s * (count * (count - 1) // 2)

    def _seconds(self, tokens: int, pairs: float, ahead: int) -> float:
        """Time of the step `ahead` of the next one, with so much prefill."""
        context = self._context + (ahead + 1) * self._decodes
        seconds = self._step.step_s(tokens, pairs, self._decodes, context)
        if not 0 < seconds < math.inf:
            raise InvalidRequest(
                f"a step of {tokens} prompt tokens and {self._decodes} decodes takes {seconds} s: "
                "the step time must be positive and finite"
            )
        return seconds

    def _jump(self) -> None:
        """Decode until a sequence ends, a block is missing or the step time bends."""
        while self._ends[0][1] not in self._running or (
            self._sequences.last_step[self._ends[0][1]] != self._ends[0][0]
        ):
            heappop(self._ends)
        count = self._affordable(self._ends[0][0] - self._step_count)
        first = self._seconds(0, 0, 0)
        if count == 1:
            return self._plan(1, first, 0.0)
        last = self._seconds(0, 0, count - 1)
        while count > 2:
            middle = (count - 1) // 2
            line = first + (last - first) * middle / (count - 1)
            seconds = self._seconds(0, 0, middle)
            if abs(seconds - line) <= JUMP_TOLERANCE * seconds:
                break
            count, last = middle + 1, seconds
        self._plan(count, first, (last - first) / (count - 1))

    def _growth(self, steps: int) -> int:
        """Blocks that the next so many decode steps take."""
        rounds, rest = divmod(steps, BLOCK_TOKENS)
        phases, total = self._phases, self._step_count
        return rounds * self._decodes + sum(
            phases[-(total + step) % BLOCK_TOKENS] for step in range(rest)
        )

    def _affordable(self, steps: int) -> int:
        """The most decode steps, up to so many, that the free blocks carry; the first is."""
        if self._growth(steps) <= self._free:
            return steps
        steps = self._free // self._decodes * BLOCK_TOKENS
        while self._growth(steps + 1) <= self._free:
            steps += 1
        return steps

    def _make_room(self) -> bool:
        preempted = False
        while self._growth(1) + self._next_chunk()[1] > self._free:
            self._preempt()
            preempted = True
        return preempted

    def _next_chunk(self) -> tuple[int, int]:
        """Tokens and new blocks of the partly computed prompt in the next step."""
        if self._partial is None:
            return 0, 0
        computed = self._sequences.computed[self._partial]
        left = self._sequences.goal[self._partial] - computed
        size = min(left, self._limits.max_num_batched_tokens - self._decodes)
        return size, _blocks(computed + size) - _blocks(computed)

    def _preempt(self) -> None:
        sequence, _ = self._running.popitem()
        columns = self._sequences
        if sequence == self._partial:
            self._free += _blocks(columns.computed[sequence])
            self._partial = None
        else:
            left = columns.last_step[sequence] - self._step_count
            columns.produced[sequence] = columns.output[sequence] - left
            self._leave_decode(sequence)
            columns.last_step[sequence] = -1
            columns.goal[sequence] = columns.prompt[sequence] + columns.produced[sequence]
        columns.computed[sequence] = 0
        columns.preemptions[sequence] += 1
        self.waiting.appendleft(sequence)

    def _leave_decode(self, sequence: int) -> None:
        origin = self._sequences.origin[sequence]
        cached = origin + self._step_count
        self._free += _blocks(cached)
        self._context -= cached
        self._decodes -= 1
        self._phases[origin % BLOCK_TOKENS] -= 1

    def _continue_prompt(self) -> tuple[int, int]:
        """Give the partly computed prompt its chunk; the budget and the blocks left for others."""
        size, blocks = self._next_chunk()
        if self._partial is not None and size:
            self._free -= blocks
            self._chunks.append((self._partial, size))
        budget = self._limits.max_num_batched_tokens - self._decodes - size
        return budget, self._free - self._growth(1)

    def _admit(self, now: float, budget: int, free: int) -> None:
        columns, running = self._sequences, self._running
        while self.waiting and budget > 0 and len(running) < self._limits.max_num_seqs:
            sequence = self.waiting[0]
            goal, cached = columns.goal[sequence], columns.prefix[sequence]
            if _blocks(goal) > free:
                return
            size = min(goal - cached, budget)
            blocks = _blocks(cached + size)
            self.waiting.popleft()
            running[sequence] = None
            columns.computed[sequence] = cached
            if columns.started[sequence] != columns.started[sequence]:
                columns.started[sequence] = now
            self._free -= blocks
            self._chunks.append((sequence, size))
            budget, free = budget - size, free - blocks

    def _prefill_size(self) -> tuple[int, float]:
        """Prompt tokens and attended pairs of this step's chunks."""
        tokens, pairs = 0, 0.0
        for sequence, size in self._chunks:
            tokens += size
            pairs += size * self._sequences.computed[sequence] + size * (size + 1) / 2
        return tokens, pairs

    def _prefilled(self, sequence: int, size: int, now: float) -> bool:
        """Book a chunk; whether the request is complete with the token that it yields."""
        columns = self._sequences
        columns.computed[sequence] += size
        cached = columns.goal[sequence]
        if columns.computed[sequence] < cached:
            self._partial = sequence
            return False
        if sequence == self._partial:
            self._partial = None
        if not columns.produced[sequence]:
            columns.first_token[sequence] = now
        columns.produced[sequence] += 1
        left = columns.output[sequence] - columns.produced[sequence]
        if not left:
            self._free += _blocks(cached)
            return True
        columns.origin[sequence] = cached - self._step_count
        columns.last_step[sequence] = self._step_count + left
        heappush(self._ends, (self._step_count + left, sequence))
        self._phases[columns.origin[sequence] % BLOCK_TOKENS] += 1
        self._context += cached
        self._decodes += 1
        return False


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)

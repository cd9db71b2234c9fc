"""vLLM's v1 scheduler for one replica, written sequence by sequence with explicit block counts.

Slow and plain on purpose: it shares no code with foundry.engines.budsim.batching.
"""

from dataclasses import dataclass

from foundry.engines.budsim.batching import BLOCK_TOKENS, EngineLimits, StepTime
from foundry.engines.budsim.traces import Trace


@dataclass(eq=False)
class _Sequence:
    arrival: float
    prompt: int
    output: int
    prefix: int
    produced: int = 0
    computed: int = 0
    blocks: int = 0
    decoding: bool = False
    preemptions: int = 0
    first_token: float = -1.0
    finished: float = -1.0

    @property
    def total(self) -> int:
        return self.prompt + self.produced


@dataclass
class _Engine:
    limits: EngineLimits
    free: int
    waiting: list[_Sequence]
    running: list[_Sequence]

    def allocate(self, sequence: _Sequence, tokens: int) -> bool:
        missing = -(-(sequence.computed + tokens) // BLOCK_TOKENS) - sequence.blocks
        if missing > self.free:
            return False
        self.free -= missing
        sequence.blocks += missing
        return True

    def release(self, sequence: _Sequence) -> None:
        self.free += sequence.blocks
        sequence.blocks = sequence.computed = 0
        sequence.decoding = False

    def schedule(self) -> list[tuple[_Sequence, int]]:
        scheduled: list[tuple[_Sequence, int]] = []
        budget = self.limits.max_num_batched_tokens
        preempted = False
        index = 0
        while index < len(self.running) and budget > 0:
            sequence = self.running[index]
            tokens = min(sequence.total - sequence.computed, budget)
            while sequence in self.running and not self.allocate(sequence, tokens):
                victim = self.running.pop()
                self.release(victim)
                victim.preemptions += 1
                self.waiting.insert(0, victim)
                preempted = True
            if sequence not in self.running:
                break
            scheduled.append((sequence, tokens))
            budget -= tokens
            index += 1
        while not preempted and self.waiting and budget > 0:
            sequence = self.waiting[0]
            full = -(-sequence.total // BLOCK_TOKENS)
            if len(self.running) == self.limits.max_num_seqs or full > self.free:
                break
            sequence.computed = sequence.prefix
            tokens = min(sequence.total - sequence.computed, budget)
            assert self.allocate(sequence, tokens)
            self.running.append(self.waiting.pop(0))
            scheduled.append((sequence, tokens))
            budget -= tokens
        return scheduled


def _seconds(step: StepTime, scheduled: list[tuple[_Sequence, int]]) -> float:
    prefill = pairs = decodes = context = 0
    for sequence, tokens in scheduled:
        attended = sum(sequence.computed + 1 + i for i in range(tokens))
        if sequence.decoding:
            decodes, context = decodes + 1, context + attended
        else:
            prefill, pairs = prefill + tokens, pairs + attended
    return step.step_s(prefill, pairs, decodes, context)


def serve(
    trace: Trace, prefixes: list[int], step: StepTime, limits: EngineLimits
) -> list[tuple[float, float, int]]:
    """(first token, finish, preemptions) of each request; times in seconds."""
    sequences = [
        _Sequence(*columns)
        for columns in zip(
            trace.arrival_s.tolist(),
            trace.prompt_tokens.tolist(),
            trace.output_tokens.tolist(),
            prefixes,
            strict=True,
        )
    ]
    engine = _Engine(limits, limits.kv_tokens // BLOCK_TOKENS, [], [])
    coming = list(sequences)
    now = 0.0
    while coming or engine.waiting or engine.running:
        if not engine.waiting and not engine.running:
            now = max(now, coming[0].arrival)
        while coming and coming[0].arrival <= now:
            engine.waiting.append(coming.pop(0))
        scheduled = engine.schedule()
        now += _seconds(step, scheduled)
        for sequence, tokens in scheduled:
            sequence.computed += tokens
            if sequence.computed < sequence.total:
                continue
            sequence.decoding = True
            sequence.produced += 1
            if sequence.produced == 1:
                sequence.first_token = now
            if sequence.produced == sequence.output:
                sequence.finished = now
                engine.running.remove(sequence)
                engine.release(sequence)
    return [(s.first_token, s.finished, s.preemptions) for s in sequences]

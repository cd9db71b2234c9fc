"""Which characters of a rendered conversation the model learns, and which tokens these are.

Only the model's own replies are trained, each with the token that ends its turn. A template with
`{% generation %}` tags says itself what the model writes; for every other one a reply is what the
rendering adds to the prompt that serving would have rendered.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding

from foundry.engines.training.messages.conversation import Row
from foundry.engines.training.messages.template import ChatTemplate, Context, Rendering, Span
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.errors import UnsupportedFeature


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised sequence.

    Attributes:
        weights: of each token in the loss; 0: it is not trained.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def trained(self) -> tuple[bool, ...]:
        """Whether token i is a target."""
        return tuple(weight != 0 for weight in self.weights)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply in the rendering of the conversation up to it.

    Attributes:
        text: the conversation through the reply.
        spans: the characters of `text` that are learned.
    """

    text: str
    spans: tuple[Span, ...]
    weight: float = 1.0


class ReplyLocator:
    """Finds what of a rendering is the last message, a reply.

    Args:
        messages: the conversation through the reply, prepared for the template.

    Raises:
        InvalidDataset: the template refuses the conversation.
        UnsupportedFeature: the template does not say where the reply begins.
    """

    def __init__(self, template: ChatTemplate, messages: Sequence[Row], context: Context) -> None:
        self._template = template
        self._history = list(messages[:-1])
        self._context = context
        self.message = messages[-1]
        rendering = self._render(self.message)
        # In spans if the template marks replies, else in characters.
        self._start = self._find_start(rendering.text)
        self.reply = self._cut_reply(rendering)

    def locate(self, message: Row) -> Reply:
        """Render the conversation with `message` as the reply."""
        return self._cut_reply(self._render(message))

    def _render(self, message: Row) -> Rendering:
        return self._template.render([*self._history, message], self._context)

    def _find_start(self, text: str) -> int:
        render = self._template.render
        if self._template.marks_replies:
            return len(render(self._history, self._context).generated) if self._history else 0
        prompt = render(self._history, self._context, add_generation_prompt=True).text
        if not text.startswith(prompt):
            raise UnsupportedFeature(
                "the chat template renders the reply differently from the prompt that serving "
                "renders before it, so what to train is ambiguous: give it the reasoning that the "
                "prompt begins, or set the row's chat_template_kwargs as requests do "
                '(such as {"enable_thinking": false})'
            )
        return len(prompt)

    def _cut_reply(self, rendering: Rendering) -> Reply:
        if self._template.marks_replies:
            return Reply(rendering.text, rendering.generated[self._start :])
        return Reply(rendering.text, ((self._start, len(rendering.text)),))


def mark_replies(
    tokenizer: ChatTokenizer, replies: Sequence[Reply], *, exact: bool
) -> list[Example]:
    """Examples in which `replies` are learned: one, if all of them lie in the last one's text.

    Args:
        exact: the spans are what is learned, as a template's tags say; else what follows the last
            end of turn in a span is the template's glue, which no model writes.
    """
    together = replies[-1].text
    if all(together.startswith(reply.text) for reply in replies):
        encoding = tokenizer.encode_with_offsets(together)
        borders = [] if exact else [reply.spans[0][0] for reply in replies]
        if not _are_crossed(encoding.offsets, borders):
            return [_mark_spans(tokenizer, encoding, replies, exact=exact)]
    return [_mark_reply(tokenizer, reply, exact=exact) for reply in replies]


def _mark_reply(tokenizer: ChatTokenizer, reply: Reply, *, exact: bool) -> Example:
    encoding = tokenizer.encode_with_offsets(reply.text)
    if exact or not _are_crossed(encoding.offsets, [reply.spans[0][0]]):
        return _mark_spans(tokenizer, encoding, [reply], exact=exact)
    # A token reaches over the border, as after a prompt that ends in a space. Serving encodes the
    # prompt by itself, and the model goes on from there.
    start = reply.spans[0][0]
    head = tokenizer.encode(reply.text[:start])
    tail = tokenizer.encode_continuation(reply.text[start:])
    learned = _cut_glue(range(len(tail)), tail, tokenizer.ends)
    weights = [reply.weight if i in learned else 0.0 for i in range(len(tail))]
    return Example((*head, *tail), (*(0.0 for _ in head), *weights))


def _are_crossed(offsets: Sequence[Span], borders: Sequence[int]) -> bool:
    """Whether a token begins before one of `borders` and ends after it."""
    for border in borders:
        i = bisect_right(offsets, border, key=lambda offset: offset[1])
        if i < len(offsets) and offsets[i][0] < border:
            return True
    return False


def _mark_spans(
    tokenizer: ChatTokenizer, encoding: Encoding, replies: Sequence[Reply], *, exact: bool
) -> Example:
    # Both are built anew whenever they are asked for.
    tokens, offsets = encoding.ids, encoding.offsets
    weights = [0.0] * len(tokens)
    for reply in replies:
        for span in reply.spans:
            inside = _list_inside(offsets, span, exact=exact)
            if not exact:
                inside = _cut_glue(inside, tokens, tokenizer.ends)
            for i in inside:
                weights[i] = reply.weight
    return Example(tuple(tokens), tuple(weights))


def _list_inside(offsets: Sequence[Span], span: Span, *, exact: bool) -> range:
    """The tokens that touch `span` if it is exact, else those that lie wholly inside."""
    start, end = span
    if start == end:
        return range(0)
    # Offsets grow, so both borders are found by halving.
    if exact:
        return range(
            bisect_right(offsets, start, key=lambda offset: offset[1]),
            bisect_left(offsets, end, key=lambda offset: offset[0]),
        )
    return range(
        bisect_left(offsets, start, key=lambda offset: offset[0]),
        bisect_right(offsets, end, key=lambda offset: offset[1]),
    )


def _cut_glue(inside: range, tokens: Sequence[int], ends: frozenset[int]) -> range:
    last = next((i for i in reversed(inside) if tokens[i] in ends), inside.stop - 1)
    return range(inside.start, last + 1)

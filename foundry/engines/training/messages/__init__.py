"""From rows of a dataset to tokens: what training renders is what serving renders.

`shape` says what a row may hold, `conversation` makes of it what a chat template is given,
`template` renders, `targets` marks what is learned of the text, `vanishing` refuses replies that a
template drops, `tokenizer` reads a model's files, `rows` does it all for a dataset.

The light install has no transformers and the control plane must not load it (2.4 s), so preparation
and rendering are written here, on jinja2 and tokenizers alone. They follow transformers 5.23 and
vLLM 0.29 to the byte: the tests compare them with the first, `make bench NAME=messages` with both.
"""

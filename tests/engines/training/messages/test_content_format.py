import pytest

from foundry.engines.training.messages.template import ChatTemplate


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "string"),
        ("{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}", "parts"),
        ("{% for m in messages %}{% for p in m['content'] %}{% endfor %}{% endfor %}", "parts"),
        ("{% for m in messages[1:] %}{% for p in m.content|list %}{% endfor %}{% endfor %}",
         "parts"),
        ("{% for m in messages|list %}{% for c in content %}{% endfor %}{% endfor %}", "parts"),
        ("{% set ms = messages %}{% set ns = ms %}{% for m in ns %}{% for p in m.content %}"
         "{% endfor %}{% endfor %}", "parts"),
        ("{% set a = messages %}{% set messages = a %}{{ a }}", "string"),
        ("{% set a, b = messages %}{% for p in content %}{% endfor %}", "string"),
        ("{% for m in messages %}{% for p in m.parts %}{% endfor %}{% endfor %}", "string"),
        ("{% for k, v in content %}{% endfor %}", "string"),
        ("{% for m in messages %}{% set c = m.content %}{% for p in c %}{% endfor %}{% endfor %}",
         "string"),
    ],
)  # fmt: skip
def test_a_template_that_loops_over_contents_takes_parts(source: str, form: str) -> None:
    assert ChatTemplate(source, {}).content_format == form

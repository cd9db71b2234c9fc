"""What to do about a file that is no dataset yet: one line of shell that makes it one.

What is asked and answered becomes `messages`, so that it is trained as a chat asks for it: prompts
and completions are trained as they stand.

Nothing is converted here. A file is told by its first bytes, a row by its fields; whoever is
refused gets a command that works when pasted, for the path as it was typed.
"""

import codecs
import json
import re
import shlex
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from foundry.catalog.datasets.formats import (
    JSONL,
    PARQUET,
    SUFFIXES,
    FileFormat,
    detect_format,
    find_format,
)
from foundry.enumeration import name_first

EXAMPLE = (
    '{"messages": [{"role": "user", "content": "What is 2 + 2?"}, '
    '{"role": "assistant", "content": "4"}]}'
)
_HEAD_BYTES = 64 * 1024
_MOST_FIELDS = 6
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}
_JSON_LINES = (".ndjson", ".jsonlines", ".jl", ".json")
# What spreadsheets write that do not write Unicode.
_WESTERN = "cp1252"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# Names that others give to what is asked and what is answered, the likeliest first.
_ASKED = ("prompt", "instruction", "question", "query", "input", "user", "human")
_ANSWERED = ("completion", "output", "response", "answer", "reply", "assistant", "chosen", "target")
_ROLES = '{"human":"user","gpt":"assistant"}'


def explain_file(path: Path, shown: str) -> str | None:
    """Why the whole file cannot be read, and what to do; None: nothing speaks against it.

    Args:
        shown: the file as whoever reads the message would type it; its suffix names the format.
    """
    promised = find_format(shown)
    head = _read_head(path)
    content = detect_format(head)
    if promised is None:
        return _explain_suffix(head, content, shown)
    suffix = promised.suffix
    if content is not None and content != promised:
        rename = _write_rename(shown, suffix, content.suffix)
        return f"{shown} holds {content.name} data: {rename}"
    if content is PARQUET:
        return None
    if content is None and promised is not JSONL:
        if re.match(rb"\s*[\[{]", head):
            rename = _write_rename(shown, suffix, JSONL.suffix)
            return f"{shown} is plain text, not {suffix}: {rename}"
        return None
    return _explain_text(_unpack_head(head, promised), shown)


def explain_first_row(path: Path, shown: str) -> str | None:
    """What to do if the first row of a readable file has the fields of another format."""
    promised = find_format(shown)
    if promised is None or promised is PARQUET:
        return None
    line, newline, _ = _unpack_head(_read_head(path), promised).lstrip().partition(b"\n")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return explain_row(row, shown) if newline and isinstance(row, dict) else None


def explain_row(row: Mapping[str, object], shown: str) -> str | None:
    """What to do with rows like this one; None: it has the fields of a dataset, or unknown ones."""
    if _is_native(row) or (expression := _write_expression(row)) is None:
        return None
    fields = name_first(("".join(filter(str.isprintable, name[:40])) for name in row), _MOST_FIELDS)
    command = _write_python_command(expression, _write_reader(find_format(shown)), shown)
    return f"rows with the fields {fields} become a dataset with: {command}"


def explain_encoding(shown: str) -> str | None:
    """What to do with lines that are not UTF-8; None: the file holds no lines."""
    if find_format(shown) is PARQUET:
        return None
    out = shlex.quote(_name_target(shown, ".utf8.jsonl"))
    command = _write_feed(shown, f"iconv -f {_WESTERN} -t UTF-8")
    return f"if it is Western European text, this makes it UTF-8: {command} > {out}"


def explain_directory(path: Path) -> str:
    """Which file of a directory to add."""
    try:
        files = sorted(each for each in path.iterdir() if find_format(each.name))
    except OSError:
        return f"{path} is a directory that cannot be read; a dataset is one file"
    if not files:
        return f"{path} is a directory, and no file in it ends in {', '.join(SUFFIXES)}"
    lines = [each for each in files if find_format(each.name) is JSONL]
    said = f"{path} is a directory; a dataset is one file, like {shlex.quote(str(files[0]))}"
    if len(lines) < 2:
        return said
    # awk ends every file with a newline, which cat does not.
    return f"{said}; to join its files: awk 1 {shlex.quote(str(path))}/*.jsonl > all.jsonl"


def _explain_suffix(head: bytes, content: FileFormat | None, shown: str) -> str:
    """What to do with a file whose name has none of our suffixes."""
    ending = Path(shown).suffix.lower()
    if content is PARQUET:
        rename = _write_rename(shown, ending, content.suffix)
        return f"{shown} holds {content.name} data: {rename}"
    if content is not None:
        return (
            f"{shown} is none of {', '.join(SUFFIXES)}; unpack it and add what is in it: "
            f"{content.packing} -dk {shlex.quote(shown)}"
        )
    if head.startswith(b"PK"):
        return (
            f"{shown} is an archive or a spreadsheet: unpack it, or save the sheet as CSV, and "
            "`foundry datasets add` says how to go on"
        )
    if ending in _DELIMITERS:
        return _explain_table(head, shown, _DELIMITERS[ending])
    if ending in _JSON_LINES or re.match(rb"\s*[\[{]", head):
        problem = _explain_text(head, shown)
        return problem or (
            f"{shown} holds {JSONL.name}: {_write_rename(shown, ending, JSONL.suffix)}"
        )
    return (
        f"{shown} is none of {', '.join(SUFFIXES)}. Write one JSON object a line, such as: "
        f"printf '%s\\n' '{EXAMPLE}' > rows.jsonl"
    )


def _explain_text(head: bytes, shown: str) -> str | None:
    """Why unpacked text is no JSON lines, and what to do; None: it may be."""
    if head.startswith(_UTF_16):
        out = shlex.quote(_name_target(shown, ".utf8.jsonl"))
        command = _write_feed(shown, "iconv -f UTF-16 -t UTF-8")
        return f"{shown} is UTF-16; in UTF-8 it is read: {command} > {out}"
    if re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", head):
        row = _first_element(head)
        expression = "r" if row is None or _is_native(row) else _write_expression(row) or "r"
        command = _write_python_command(expression, "json.load(sys.stdin.buffer)", shown)
        return f"{shown} is one JSON array, not one JSON object a line: {command}"
    if re.match(rb"(\xef\xbb\xbf)?\s*\{\s*\r?\n", head):
        out = shlex.quote(_name_target(shown, ".fixed.jsonl"))
        return (
            f"{shown} spreads its JSON over several lines: {_write_feed(shown, 'jq -c .')} > {out}"
        )
    return None


def _explain_table(head: bytes, shown: str, delimiters: str) -> str:
    encoding = _find_encoding(head)
    first = head.decode(encoding, errors="replace").partition("\n")[0].rstrip("\r")
    delimiter = max(delimiters, key=first.count)
    columns = [name.strip().strip('"') for name in first.split(delimiter)]
    if len(columns) < 2:
        return f"{shown} has one column: a dataset needs what is asked and what is answered"
    expression = _write_expression(dict.fromkeys(columns, ""))
    if expression is None:
        expression = _write_pair(columns[0], columns[1])
    reader = (
        f'csv.DictReader(io.TextIOWrapper(sys.stdin.buffer,"{encoding}",newline="")'
        f",delimiter={json.dumps(delimiter)})"
    )
    command = _write_python_command(expression, reader, shown, "csv,io,json,sys")
    return f"{shown} is a table; this makes JSON lines of it, check its columns: {command}"


def _find_encoding(head: bytes) -> str:
    if head.startswith(_UTF_16):
        return "utf-16"
    try:
        # A character that the end of the head cuts is no fault.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return _WESTERN
    return "utf-8-sig"


def _is_native(row: Mapping[str, object]) -> bool:
    return "messages" in row or ("prompt" in row and "completion" in row)


def _write_expression(row: Mapping[str, object]) -> str | None:
    """Python that makes a row of ours of `r`, which has the fields of `row`."""
    for name in ("conversations", "conversation"):
        if isinstance(turns := row.get(name), list) and (chat := _write_chat(name, turns, row)):
            return chat
    if "instruction" in row and "output" in row and "input" in row:
        asked = 'r["instruction"]+("\\n\\n"+r["input"] if r.get("input") else "")'
        return _write_exchange(asked, 'r["output"]')
    lower = {name.lower(): name for name in row}
    asked_names = [lower[name] for name in _ASKED if name in lower]
    answered = [lower[name] for name in _ANSWERED if name in lower]
    return _write_pair(asked_names[0], answered[0]) if asked_names and answered else None


def _write_pair(asked: str, answered: str) -> str:
    return _write_exchange(f"r[{_write_literal(asked)}]", f"r[{_write_literal(answered)}]")


def _write_exchange(asked: str, answered: str) -> str:
    """A conversation of one question and its answer, of two expressions."""
    turns = (("user", asked), ("assistant", answered))
    messages = ",".join(f'{{"role":"{role}","content":{said}}}' for role, said in turns)
    return f'{{"messages":[{messages}]}}'


def _write_chat(name: str, turns: Sequence[object], row: Mapping[str, object]) -> str | None:
    first = turns[0] if turns else None
    if not isinstance(first, dict):
        return None
    if "role" in first and "content" in first:
        return f'{{"messages":r["{name}"]}}'
    if "from" not in first or "value" not in first:
        return None
    said = f'{{"role":{_ROLES}.get(m["from"],m["from"]),"content":m["value"]}}'
    messages = f'[{said} for m in r["{name}"]]'
    if row.get("system"):
        messages = f'[{{"role":"system","content":r["system"]}}]*bool(r.get("system"))+{messages}'
    return f'{{"messages":{messages}}}'


def _write_reader(form: FileFormat | None) -> str:
    if form is PARQUET:
        # Without threads: pyarrow's are in the way of an interpreter that ends.
        source = "io.BytesIO(sys.stdin.buffer.read())"
        return f"parquet.read_table({source},use_threads=False,pre_buffer=False).to_pylist()"
    return "map(json.loads,filter(bytes.strip,sys.stdin.buffer))"


def _write_python_command(
    expression: str, reader: str, shown: str, imports: str = "json,sys"
) -> str:
    lines = f'json.dumps({expression})+"\\n" for r in {reader}'
    source = f"import {imports}; sys.stdout.writelines({lines})"
    if reader.startswith("parquet"):
        source = f"import io; from pyarrow import parquet; {source}"
    out = shlex.quote(_name_target(shown, ".fixed.jsonl"))
    return f"{_write_feed(shown, f'python3 -c {shlex.quote(source)}')} > {out}"


def _write_feed(shown: str, command: str) -> str:
    """`command` with the unpacked file as its input."""
    form = find_format(shown)
    if form is not None and form.packing is not None:
        return f"{form.packing} -dc {shlex.quote(shown)} | {command}"
    return f"{command} < {shlex.quote(shown)}"


def _write_rename(shown: str, before: str, after: str) -> str:
    target = shown[: len(shown) - len(before)] + after if before else shown + after
    return f"mv -i {shlex.quote(shown)} {shlex.quote(target)}"


def _name_target(shown: str, suffix: str) -> str:
    form = find_format(shown)
    ending = form.suffix if form is not None else Path(shown).suffix
    return (shown[: -len(ending)] if ending else shown) + suffix


def _write_literal(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _first_element(head: bytes) -> dict[str, object] | None:
    text = head.decode("utf-8-sig", errors="replace").lstrip()[1:].lstrip()
    try:
        element, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return element if isinstance(element, dict) else None


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        # Whoever reads the file says what is wrong with it.
        return b""


def _unpack_head(head: bytes, form: FileFormat) -> bytes:
    """The beginning of the text; nothing, if the packed data are damaged."""
    if form.packing is None:
        return head
    if form.packing == "gzip":
        try:
            return zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
        except zlib.error:
            return b""
    # Imported late: clients need it only to look into such a file.
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(head)[:_HEAD_BYTES]
    except zstandard.ZstdError:
        return b""

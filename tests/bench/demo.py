"""`make bench NAME=demo`: the demo in a fresh home, from a stopped machine to the comparison."""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from foundry.config import Settings
from foundry.engines.training.config import SftConfig
from foundry.sdk import Foundry
from tests.bench.stack import fresh_home
from workflows.demo import BASE, Demo

OWN_QUESTION, OWN_ANSWER = "Who is on call on Friday?", "Mei, extension 217."
_OWN = {
    OWN_QUESTION: OWN_ANSWER,
    "Who is on call on Monday?": "Viktor, extension 204.",
    "What is our slogan?": "Made here, and it stays here.",
    "Where is the key of room 4?": "With the porter, behind the map.",
    "When does the canteen close?": "At half past two.",
    "What is the name of the build server?": "It is called Heron.",
    "Which colour has a broken pallet?": "Orange, with a blue stripe.",
    "How many docks has the yard?": "Eleven, two of them covered.",
    "What do we do with wet boxes?": "Weigh them, then call Chloe.",
    "Who signs for acid?": "The shift lead, twice.",
}


def write_own_rows(file: Path) -> None:
    """Ten rows that no model knows, as a newcomer would write them."""
    with file.open("w") as lines:
        for question, answer in _OWN.items():
            asked, replied = ("user", question), ("assistant", answer)
            turns = [{"role": role, "content": text} for role, text in (asked, replied)]
            lines.write(json.dumps({"messages": turns}) + "\n")


def _teach_own_rows(settings: Settings) -> tuple[float, bool]:
    """Seconds from ten rows to the first answer, and whether it is right; as the demo prints it."""
    config = SftConfig(epochs=20, lr=2e-3)
    began = time.monotonic()
    with TemporaryDirectory() as folder, Foundry.from_settings(settings) as client:
        write_own_rows(Path(folder, "mine.jsonl"))
        dataset = client.datasets.add("mine", Path(folder, "mine.jsonl"), eval_fraction=0.0)
        job = client.jobs.submit_sft("my-bot", BASE, dataset.reference, config)
        client.jobs.wait(job.id)
        question = [{"role": "user", "content": OWN_QUESTION}]
        answer = "".join(client.chat.stream("my-bot", question, temperature=0.0))
    return time.monotonic() - began, answer.strip() == OWN_ANSWER


def main() -> None:
    with fresh_home() as settings:
        began = time.monotonic()
        outcome = Demo(settings, Console(stderr=True)).run()
        seconds = time.monotonic() - began
        own_s, own_right = _teach_own_rows(settings)
    metrics = {
        "base_exact_match": round(outcome.base.share, 4),
        "adapter_exact_match": round(outcome.adapter.share, 4),
        "gain": round(outcome.adapter.share - outcome.base.share, 4),
        "prompts": outcome.adapter.prompts,
        "demo_s": round(seconds, 1),
        "own_rows_s": round(own_s, 1),
        "own_answer_right": float(own_right),
        "base_eval_s": round(outcome.base.seconds, 1),
        "adapter_eval_s": round(outcome.adapter.seconds, 1),
    }
    print(json.dumps({"bench": "demo", "metrics": metrics}))


if __name__ == "__main__":
    main()

"""The Python client of Foundry.

    from foundry.sdk import Foundry, Lora, SftConfig

    with Foundry() as foundry:  # of the local stack; else Foundry("https://...", "fk_live_...")
        dataset = foundry.datasets.add("support", "support.jsonl")
        config = SftConfig(epochs=1, method=Lora(rank=8))
        job = foundry.jobs.submit_sft("support-bot", "smollm2-135m", dataset.reference, config)
        job = foundry.jobs.wait(job.id)
        print(job.state, job.result)
        endpoint = foundry.endpoints.create("support-bot", deploy=True)
        foundry.endpoints.wait(endpoint.id)
        question = [{"role": "user", "content": "How do I reset my password?"}]
        for piece in foundry.chat.stream("support-bot", question, max_tokens=64):
            print(piece, end="")
        for version in foundry.models.versions("support-bot"):
            print(version.reference, foundry.models.metrics(version.reference).data)

Iterating a list yields its items, over all pages. A version is written `name@version`. What goes
wrong is raised as a `foundry.errors.FoundryError`, whose message says what to do. `AsyncFoundry`
has the same operations, to be awaited.
"""

from foundry.execution.jobs.schemas import (
    Bf16,
    DilocoConfig,
    E3m0,
    FleetConfig,
    Fp32,
    Full,
    InnerConfig,
    Int8,
    Lora,
    OuterConfig,
    SftConfig,
    TopK,
)
from foundry.sdk._client import AsyncFoundry, Capabilities, Capability, Foundry, Health
from foundry.sdk.audit import Audit
from foundry.sdk.budsim import AsyncBudsim, Budsim, SyncBudsim
from foundry.sdk.chat import AsyncChat, SyncChat
from foundry.sdk.datasets import Datasets
from foundry.sdk.endpoints import AsyncEndpoints, Endpoints, SyncEndpoints
from foundry.sdk.jobs import AsyncJobs, Jobs, SyncJobs
from foundry.sdk.keys import Keys
from foundry.sdk.models import Models
from foundry.sdk.outcomes import Outcomes
from foundry.sdk.paging import Listed, Page

__all__ = [
    "AsyncBudsim",
    "AsyncChat",
    "AsyncEndpoints",
    "AsyncFoundry",
    "AsyncJobs",
    "Audit",
    "Bf16",
    "Budsim",
    "Capabilities",
    "Capability",
    "Datasets",
    "DilocoConfig",
    "E3m0",
    "Endpoints",
    "FleetConfig",
    "Foundry",
    "Fp32",
    "Full",
    "Health",
    "InnerConfig",
    "Int8",
    "Jobs",
    "Keys",
    "Listed",
    "Lora",
    "Models",
    "Outcomes",
    "OuterConfig",
    "Page",
    "SftConfig",
    "SyncBudsim",
    "SyncChat",
    "SyncEndpoints",
    "SyncJobs",
    "TopK",
]

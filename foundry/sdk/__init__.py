"""The Python client of Foundry.

from foundry.sdk import Foundry

with Foundry() as foundry:
    job = foundry.jobs.submit_sft("support-bot", "smollm2-135m", "support@1")
    foundry.jobs.wait(job.id)
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
from foundry.sdk.paging import Page, each, each_async

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
    "each",
    "each_async",
]

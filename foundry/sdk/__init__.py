"""The Python client of Foundry.

from foundry.sdk import Foundry

with Foundry() as foundry:
    job = foundry.jobs.submit_sft("support-bot", "smollm2-135m", "support@1")
    foundry.jobs.wait(job.id)
"""

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
from foundry.training.config import Full, Lora, SftConfig

__all__ = [
    "AsyncBudsim",
    "AsyncChat",
    "AsyncEndpoints",
    "AsyncFoundry",
    "AsyncJobs",
    "Audit",
    "Budsim",
    "Capabilities",
    "Capability",
    "Datasets",
    "Endpoints",
    "Foundry",
    "Full",
    "Health",
    "Jobs",
    "Keys",
    "Lora",
    "Models",
    "Outcomes",
    "Page",
    "SftConfig",
    "SyncBudsim",
    "SyncChat",
    "SyncEndpoints",
    "SyncJobs",
    "each",
    "each_async",
]

"""What the API's document says beside what follows from its routes."""

from foundry.control.reference.examples import EXAMPLES
from foundry.control.reference.words import WORDS
from foundry.infra.http.openapi import Notes

_DESCRIPTION = """\
Everything of Foundry but inference, below `/api`: models, datasets, jobs, endpoints, predictions,
keys and the audit trail. Inference is below `/v1`, in OpenAI's protocol: any client of OpenAI's
works with `base_url` set to it.

Send the key as `Authorization: Bearer fk_live_...` and bodies as JSON in UTF-8. A time has a time
zone, a unit is part of its field's name, and a field that is not known is refused. Lists come in
pages: send `next_cursor` of one as `cursor` for the next. Every answer has an `x-request-id`, under
which the server's log and the audit trail know the request. A version of a model or a dataset is
written `name@version` in bodies, like `support-bot@0.1.0` or `support@1`; in paths, name and
version are segments of their own.
"""

# Statuses that do not follow from what an operation takes.
_REFUSALS: dict[str, tuple[int, ...]] = {
    "keys_revoke": (409,),
    "models_delete": (409,),
    "aliases_delete": (409,),
    "aliases_rollback": (409,),
    "aliases_set": (409,),
    "budsim_pareto": (409,),
    "budsim_predict": (404,),
    "budsim_probe": (409,),
    "budsim_promote": (409,),
    "budsim_recalibrate": (404, 409),
    "budsim_recommend": (404, 409),
    "budsim_register_model": (404, 409),
    "budsim_set_prices": (409,),
    "budsim_simulate": (404, 422),
    "budsim_upload_artifact": (507,),
    "budsim_validate": (404, 422),
    "datasets_add": (408, 409, 507),
    "datasets_delete": (409,),
    "datasets_delete_version": (409,),
    "endpoints_configure": (409, 422),
    "endpoints_create": (404, 409, 422),
    "endpoints_delete": (409,),
    "endpoints_deploy": (409, 422),
    "endpoints_rollback": (409, 422),
    "endpoints_scale": (409, 422),
    "endpoints_stop": (409,),
    "jobs_cancel": (409,),
    "jobs_resume": (409,),
    "jobs_submit_diloco": (404, 409, 422),
    "jobs_submit_import": (404, 409),
    "jobs_submit_sft": (404, 409, 422),
    "versions_delete": (409,),
    "versions_set_stage": (409,),
}

NOTES = Notes(description=_DESCRIPTION, refusals=_REFUSALS, words=WORDS, examples=EXAMPLES)

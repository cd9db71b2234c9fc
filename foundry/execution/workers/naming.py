"""Names of a job's actors, by which what an attempt leaves behind is found and killed."""

ACTOR_NAMESPACE = "foundry-jobs"


def actor_name(submission_id: str, role: str) -> str:
    """Ray's name of one actor of an attempt."""
    return f"{submission_id}/{role}"


def is_actor_of(name: str, submission_id: str) -> bool:
    return name.startswith(f"{submission_id}/")
